"""Settings of image classification."""

from dataclasses import dataclass, field

from snn_rl.configs.setting import CUSTOM, setting


@dataclass
class FitConfig:
    """ANN stage, trained by stochastic gradient descent with momentum 0.9."""

    epochs: int = setting(15, "Training epochs of the stage.", minimum=1)
    lr: float = setting(0.05, "Maximum learning rate.", above=0)
    batch_size: int = setting(128, "Images per mini-batch, summed over all workers.", minimum=1)
    weight_decay: float = setting(5e-4, "Weight decay.", minimum=0)
    schedule: str = setting(
        "onecycle", "Learning-rate schedule.", choices=("steps", "cosine", "onecycle")
    )
    milestones: list[float] = setting(
        [0.45, 0.7, 0.9], "schedule=steps: fractions of the training at which lr drops."
    )
    decay: float = setting(0.2, "schedule=steps: lr factor at each milestone.", above=0, maximum=1)
    dropout: float = setting(0.2, "Dropout probability.", minimum=0, below=1)
    label_smoothing: float = setting(0.05, "Label smoothing.", minimum=0, maximum=1)


@dataclass
class SpikingFitConfig(FitConfig):
    """Conversion and spiking stages, trained by Adam."""

    epochs: int = setting(1, "Training epochs of each stage.", minimum=1)
    t1_epochs: int = setting(12, "Epochs of the T=1 stage; 0 uses iir.epochs.", minimum=0)
    lr: float = setting(1e-3, "Maximum learning rate.", above=0)
    weight_decay: float = setting(0.0, "Weight decay.", minimum=0)
    milestones: list[float] = setting(
        [0.6, 0.8, 0.9], "schedule=steps: fractions of the training at which lr drops."
    )
    dropout: float = setting(0.0, "Dropout probability.", minimum=0, below=1)
    label_smoothing: float = setting(0.0, "Label smoothing.", minimum=0, maximum=1)
    distill: float = setting(
        1.0, "Weight of distillation; labels: 1 - distill.", minimum=0, maximum=1
    )
    temperature: float = setting(2.0, "Distillation temperature.", above=0)
    thresholds: str = setting(
        "percentile",
        "Threshold search; clip and alpha_beta require clip=true.",
        choices=("percentile", "clip", "alpha_beta"),
    )
    thresholds_from: str | None = setting(None, "Spiking network to take the thresholds from.")
    percentile: float = setting(
        70.0, "Percentile of a layer's inputs, used as its threshold.", above=0, maximum=100
    )
    percentile_over: str = setting(
        "positive", "Inputs in the percentile; the paper uses all.", choices=("positive", "all")
    )
    # [IIR]'s linear surrogate passes almost no gradient to the first layers of VGG16 or a ResNet.
    surrogate: str = setting(
        "boxcar", "Spike surrogate gradient.", choices=("snn_rl.core.surrogate:SURROGATES", CUSTOM)
    )
    encoding: str = setting("direct", "Encoding of the input.", choices=("direct", "poisson"))
    conversion_samples: int = setting(
        256, "Images used in the threshold search.", minimum=1, maximum=10_000
    )
    conversion_timesteps: int = setting(0, "Timesteps of the search; 0 uses T.", minimum=0)
    block_thresholds: str = setting(
        "search", "Thresholds in blocks; unity: input spike amplitude.", choices=("search", "unity")
    )
    threshold_scale: float = setting(1.0, "Factor applied to the thresholds found.", above=0)
    train_threshold: bool = setting(True, "Train thresholds and leaks after conversion.")
    window: int = setting(0, "Timesteps of truncated BPTT; 0 uses T.", minimum=0)


@dataclass
class ClassifyConfig:
    """General settings of the classify command."""

    dataset: str = setting("", "Dataset name.", choices=("snn_rl.images.data.datasets:DATASETS",))
    data: str | None = setting(None, "Folder of the dataset; null uses $SNN_RL_DATA/<dataset>.")
    net: str = setting("vgg6", "Network.", choices=("snn_rl.core.networks:IMAGE_NETWORKS", CUSTOM))
    T: int = setting(1, "Timesteps of the last stage.")
    seed: int = setting(0, "Seed of all random number generators.", minimum=0)
    preset: str = setting("default", "Preset: default, paper (settings of [IIR]), stdb, or ull.")
    T_start: int = setting(5, "Timesteps of the first spiking stage.")
    T_step: int = setting(1, "Difference in T from one stage to the next.")
    direct: bool = setting(False, "Retrain at T directly, without intermediate stages.")
    stages: str = setting("iir", "Spiking stages: iir, or none to convert without retraining.")
    scratch: bool = setting(False, "Train a spiking network without an ANN.")
    run_dir: str | None = setting(
        None, "Run directory; null uses <runs>/<dataset>-<net>/seed<seed>."
    )
    runs: str = setting("runs", "Folder of all runs.")
    prune: float = setting(
        0.0, "Fraction of the weights to prune in an additional stage.", minimum=0, below=1
    )
    ann: str | None = setting(None, "Trained ANN to convert (network.safetensors).")
    batch_norm: bool = setting(True, "Use batch normalization in the ANN; conversion fuses it.")
    pooling: str = setting("avg", "Type of the pooling layers.", choices=("avg", "max"))
    clip: bool = setting(False, "Clip the ANN's ReLUs at trained thresholds, one per layer.")
    image_size: int | None = setting(None, "Size of ImageNet images; null uses 224.")
    pixels: str = setting(
        "standard", "Normalization; symmetric: to [-1, 1].", choices=("standard", "symmetric")
    )
    test_limit: int | None = setting(None, "Class-balanced test images; null uses all.", minimum=1)
    limit: int | None = setting(None, "Class-balanced training images; null uses all.", minimum=1)
    precision: str = setting(
        "auto",
        "Training precision; auto uses bfloat16 where it is fast.",
        choices=("auto", "float32", "bfloat16"),
    )
    device: str = setting("auto", "Device of the network: auto, cpu, cuda, cuda:1, ...")
    threads: int = setting(0, "CPU threads; 0 uses one per core.", minimum=0)
    fit: FitConfig = field(default_factory=FitConfig)
    iir: SpikingFitConfig = field(default_factory=SpikingFitConfig)
