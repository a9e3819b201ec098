"""The settings of the agents' commands and their defaults."""

from dataclasses import dataclass, field


@dataclass
class RolloutConfig:
    """The environment that agents train in, and its observations in evaluation too."""

    n_envs: int = 8
    frame_stack: int = 4
    frames: str = "stack"  # stack | difference
    sticky: float = 0.0
    cap: int = 27_000


@dataclass
class DQNConfig:
    """The ANN stage; `gamma`, `n_steps`, `double` and the target also serve iir.objective=td."""

    steps: int = 1_000_000
    lr: float = 1e-4
    optimizer: str = "Adam"
    batch_size: int = 32
    buffer_size: int = 100_000
    learning_starts: int = 10_000
    gamma: float = 0.99
    n_steps: int = 1
    double: bool = False
    train_freq: int = 1  # vector-environment steps between updates
    gradient_steps: int = 1
    target_update_interval: int = 1_000
    epsilon_start: float = 1.0
    epsilon_end: float = 0.01
    epsilon_steps: int = 100_000
    lr_end: float = 1.0  # the learning rate falls linearly to this fraction of lr
    lr_steps: int | None = None  # and stays there after so many steps; None: falls to the end
    # Checkpoints play as many games once epsilon has fallen, and the best is kept; 0: the last is.
    selection_games: int = 0
    target_return: float | None = None  # a mean return in those games that ends the stage


@dataclass
class FinetuneConfig:
    """The ANN trained further, under sticky actions, before it is converted; else as in `dqn`."""

    steps: int = 0  # 0: no such stage; none either for an imported ANN (ann=)
    sticky: float = 0.25
    lr: float = 1e-4
    # Choose among the checkpoints of the second half: so many games with sticky actions, and as
    # many without; a checkpoint's score is the mean of both means.
    selection_games: int = 20


@dataclass
class IIRConfig:
    """The spiking stages."""

    objective: str = "distill"  # td | distill | distill+td
    steps: int = 20_000
    t1_steps: int = 0  # steps of the T=1 stage; 0: as many as the others
    lr: float = 5e-4
    cosine: bool = True
    optimizer: str = "Adam"
    batch_size: int = 128
    train_freq: int = 1
    gradient_steps: int = 1
    epsilon: float = 0.02
    sticky: float | None = None  # in place of rollout.sticky; None: as that
    # Stages longer than selection_steps choose too, every so many steps of their second half.
    selection_games: int = 0
    # Besides those, so many games under iir.sticky, where it is not rollout.sticky; a checkpoint's
    # score is the mean of both means.
    selection_sticky_games: int = 0
    selection_steps: int = 10_000
    sharpness: float = 3.0
    percentile: float = 90.0
    percentile_over: str = "positive"  # positive | all
    surrogate: str = "linear"
    encoding: str = "direct"
    conversion_samples: int = 256


@dataclass
class CarryConfig:
    """The stage whose membranes live on from frame to frame; the rest is as in `IIRConfig`."""

    steps: int = 50_000
    leak: float = 0.0  # that it begins with, in every layer; 0: as T=1, without any memory
    burn_in: int = 8  # frames of a sequence that only bring its membranes up to date
    window: int = 8  # frames behind them that are learnt from


@dataclass
class EvalConfig:
    """Evaluation."""

    seed: int = 1_000_000
    epsilon: float = 0.0
    sticky: float = 0.25


@dataclass
class PlayConfig:
    """Playing for the eye."""

    output: str = "auto"  # auto | window | mp4 | gif
    overlay: bool = False
    max_steps: int = 2_000
    fps: int = 30


@dataclass
class Config:
    """Everything a command can be told."""

    env: str = ""  # every command needs it but the report of a paper's figure
    T: int = 1
    seed: int = 0
    preset: str = "default"  # default | paper
    T_start: int = 5
    T_step: int = 1
    direct: bool = False
    stages: str = "iir"  # iir | none
    run_dir: str | None = None
    runs: str = "runs"  # the folder of all runs
    paper: str | None = None  # iir | stdb | ull
    figure: int | None = None  # of that paper
    table: int | None = None  # of that paper, instead
    sweep: str | None = None  # a folder of runs, whose scores are put together
    zoo: str | None = None  # where agents are published; None: among those that ship
    ann: str | None = None  # an ANN that is done: it only plays, to fill the replay buffer
    init: str | None = None  # a network that the ANN stage starts to learn from
    teacher: str | None = None  # an ANN, of more frames perhaps, that teaches this run's
    # What a state dict does not say: its convolutions' strides, if they are not the Mnih nets', and
    # the largest pixel value it was trained on (1: images are divided by 255).
    strides: list[int] | None = None
    pixel_max: float = 1.0
    carry_state: bool = False  # go on from T=1: membranes live on from frame to frame
    exact: bool = False  # end with the T=1 network on an integer grid
    engine: str = "dense"  # dense | event: what an agent on that grid decides with
    network: str = "mnih"  # or cartpole, or layers as in 16c8s4-32c4s2-256; ann= brings its own
    bias: bool = False
    precision: str = "auto"  # auto | float32 | bfloat16
    device: str = "auto"
    threads: int = 0
    checkpoint_steps: int = 50_000
    episodes: int = 20
    video: bool = True
    format: str = "onnx"  # onnx | nir | torch | event: of an exported file
    output: str | None = None  # the exported file; None: in the stage's directory
    check_frames: int = 500  # of real games, that an exported file is checked on
    overlay: bool = False  # the short way to say play.overlay
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    dqn: DQNConfig = field(default_factory=DQNConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    iir: IIRConfig = field(default_factory=IIRConfig)
    carry: CarryConfig = field(default_factory=CarryConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    play: PlayConfig = field(default_factory=PlayConfig)
