"""Settings of the classification command."""

from dataclasses import dataclass, field

DATASETS = ("cifar10", "cifar100", "imagenet")
NETWORKS = ("vgg5", "vgg6", "vgg9", "vgg11", "vgg16", "resnet8", "resnet20", "resnet34")


@dataclass
class FitConfig:
    """How a network is fitted to the training images.

    Defaults are those of the analog network, trained by stochastic gradient descent.
    """

    epochs: int = 15
    lr: float = 0.05
    batch_size: int = 128
    weight_decay: float = 5e-4
    schedule: str = "onecycle"  # steps | cosine | onecycle
    # steps: fractions of the epochs after which lr is multiplied by decay
    milestones: list[float] = field(default_factory=lambda: [0.45, 0.7, 0.9])
    decay: float = 0.2
    dropout: float = 0.2
    label_smoothing: float = 0.05


@dataclass
class SpikingFitConfig(FitConfig):
    """The spiking stages: Adam, and the conversion in front of them."""

    epochs: int = 1
    t1_epochs: int = 12  # of the T=1 stage; 0: as many as the others
    lr: float = 1e-3
    weight_decay: float = 0.0
    milestones: list[float] = field(default_factory=lambda: [0.6, 0.8, 0.9])
    dropout: float = 0.0
    label_smoothing: float = 0.0
    distill: float = 1.0  # weight of the ANN's outputs against the labels'
    temperature: float = 2.0  # of that distillation
    thresholds: str = "percentile"  # percentile | clip | alpha_beta
    thresholds_from: str | None = None  # this spiking network's, in place of any search
    percentile: float = 70.0
    percentile_over: str = "positive"  # positive | all
    # With [IIR]'s linear one next to no gradient reaches the first layers of VGG16 or a ResNet.
    surrogate: str = "boxcar"
    encoding: str = "direct"
    conversion_samples: int = 256
    conversion_timesteps: int = 0  # that the threshold search looks at; 0: T
    block_thresholds: str = "search"  # search | unity (inside residual blocks)
    threshold_scale: float = 1.0  # of all thresholds, after the search
    train_threshold: bool = True  # false: thresholds and leaks stay as conversion has set them
    window: int = 0  # timesteps that gradients reach back at most (truncated BPTT); 0: T


@dataclass
class ClassifyConfig:
    """Everything that `python -m snn_rl.classify` can be told."""

    dataset: str = ""
    data: str | None = None  # the folder of the images; None: <SNN_RL_DATA>/<dataset>
    net: str = "vgg6"
    T: int = 1
    seed: int = 0
    preset: str = "default"  # default | paper | stdb | ull
    T_start: int = 5
    T_step: int = 1
    direct: bool = False
    stages: str = "iir"  # iir | none
    # Train a spiking network without any ANN before it; with T=1 its activations are binary.
    scratch: bool = False
    run_dir: str | None = None
    runs: str = "runs"
    prune: float = 0.0  # go on to a network without this fraction of its weights
    ann: str | None = None  # start from this network instead of training one
    batch_norm: bool = True
    pooling: str = "avg"  # avg | max
    clip: bool = False  # the ReLUs of the ANN, each at a threshold that is trained
    image_size: int | None = None  # ImageNet's, which are cut to it; None: 224
    pixels: str = "standard"  # standard | symmetric (-1 to 1, as Poisson input needs them)
    test_limit: int | None = None  # as many test images, of all classes alike; None: all
    limit: int | None = None  # as many training images, of all classes alike; None: all
    precision: str = "auto"  # auto | float32 | bfloat16
    device: str = "auto"
    threads: int = 0
    fit: FitConfig = field(default_factory=FitConfig)
    iir: SpikingFitConfig = field(default_factory=SpikingFitConfig)
