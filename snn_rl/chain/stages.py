"""Iterative initialization and retraining: the schedule of stages from the ANN to T = 1."""

from dataclasses import dataclass

from snn_rl.utils.errors import UserError

ANN = "ann"
PRETRAINED = "ann-pretrained"  # what the ANN is trained further from, if it is
ANALOG = (PRETRAINED, ANN)
CARRIED = "-carried"
PRUNED = "-pruned"
EXACT = "-exact"
SCRATCH = "-scratch"


@dataclass(frozen=True)
class Stage:
    """One link of the chain.

    Attributes:
        name: Its directory: ann-pretrained, ann, T5, T1, T1-direct, T1-exact, T100-converted, ...
        timesteps: T, or None for an analog network.
        source: Name of the stage it is initialized from, or None for the first.
        trained: False for conversion only.
        carry_state: Membranes live on from image to image.
        pruned: Its smallest weights are removed before it is retrained.
        exact: Its source's network on the integer grid; not trained.
    """

    name: str
    timesteps: int | None
    source: str | None
    trained: bool = True
    carry_state: bool = False
    pruned: bool = False
    exact: bool = False

    @property
    def analog(self) -> bool:
        """Whether its network does not spike."""
        return self.timesteps is None

    @property
    def finetuned(self) -> bool:
        """Whether it trains an analog network further."""
        return self.analog and self.source is not None


def schedule(
    T: int,
    T_start: int = 5,
    T_step: int = 1,
    direct: bool = False,
    stages: str = "iir",
    carry_state: bool = False,
    prune: bool = False,
    exact: bool = False,
    finetune: bool = False,
) -> list[Stage]:
    """The stages from the ANN down to T timesteps.

    Source: [IIR] algorithm 1; `T_step=2` is its skipping variant, `direct` its "_d" variant.

    Args:
        T: Timesteps of the last stage.
        T_start: Timesteps of the first spiking stage.
        T_step: By how much T falls from stage to stage.
        direct: Retrain at T at once, initialized from the converted ANN.
        stages: "iir", or "none" for conversion without any retraining (any T).
        carry_state: Go on from T = 1 to an agent whose membranes live on from image to image.
        prune: Go on to a network without its smallest weights ([IIR] section 5.3).
        exact: End with the T = 1 network on an integer grid.
        finetune: Train the ANN in two stages.

    Returns:
        The ANN stage, or both, and the spiking ones behind it, in order.

    Raises:
        UserError: These values do not describe a chain.
    """
    if T < 1:
        raise UserError(f"T={T}: the number of timesteps must be a whole number, 1 or more")
    if T_start < 1 or T_step < 1:
        raise UserError(f"T_start={T_start} and T_step={T_step} must both be 1 or more")
    if carry_state and (T != 1 or stages == "none"):
        raise UserError(
            "carry_state=true goes on from a trained T=1 agent: say T=1, and stages=iir"
        )
    if exact and (T != 1 or stages == "none" or carry_state or prune):
        raise UserError(
            "exact=true puts a trained T=1 agent on the grid: say T=1, stages=iir and "
            "carry_state=false, without pruning"
        )
    if prune and (carry_state or stages == "none"):
        raise UserError("pruning retrains a spiking stage: stages=iir, without carry_state")
    chain = [Stage(ANN, None, None)]
    if finetune:
        chain = [Stage(PRETRAINED, None, None), Stage(ANN, None, PRETRAINED)]
    if stages == "none":
        return [*chain, Stage(f"T{T}-converted", T, ANN, trained=False)]
    if stages != "iir":
        raise UserError(f"stages={stages}: must be iir or none")
    if direct:
        return _extended([*chain, Stage(f"T{T}-direct", T, ANN)], carry_state, prune, exact)
    if T > T_start:
        raise UserError(
            f"T={T} is above T_start={T_start}: the chain starts at T_start and goes down; raise "
            f"T_start, or take stages=none to convert without retraining at any T"
        )
    if (T_start - T) % T_step:
        reached = ", ".join(str(t) for t in range(T_start, 0, -T_step))
        raise UserError(
            f"T={T} is not on the way from T_start={T_start} by T_step={T_step}: {reached}"
        )
    for timesteps in range(T_start, T - 1, -T_step):
        chain.append(Stage(f"T{timesteps}", timesteps, chain[-1].name))
    return _extended(chain, carry_state, prune, exact)


def _extended(chain: list[Stage], carry_state: bool, prune: bool, exact: bool) -> list[Stage]:
    last = chain[-1]
    if carry_state:
        chain.append(Stage(f"{last.name}{CARRIED}", 1, last.name, carry_state=True))
    if prune:
        chain.append(Stage(f"{last.name}{PRUNED}", last.timesteps, last.name, pruned=True))
    if exact:
        chain.append(Stage(f"{last.name}{EXACT}", 1, last.name, trained=False, exact=True))
    return chain


def label(name: str) -> str:
    """A stage's name in tables."""
    return name.replace(ANN, "ANN").replace("-", ", ") if name in ANALOG else name
