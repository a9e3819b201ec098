"""Stages of a training chain: names, order, and the schedule from the ANN to T timesteps."""

import re
from dataclasses import dataclass

from snn_rl.configs.image_schema import ClassifyConfig
from snn_rl.configs.schema import Config
from snn_rl.utils.errors import UserError

ANN = "ann"
PRETRAINED = "ann-pretrained"  # the ANN before fine-tuning
_ANALOG = (PRETRAINED, ANN)
TEACHER = "teacher"  # the privileged teacher
CONVERTED, DIRECT, SCRATCH = "converted", "direct", "scratch"
CARRIED, EXACT, PRUNED = "carried", "exact", "pruned"
# Kinds of spiking stages in the order used by reports; "" is a stage of gradual retraining
_KINDS = (
    *("", CARRIED, EXACT, DIRECT, f"{DIRECT}-{CARRIED}", f"{DIRECT}-{EXACT}", CONVERTED),
    *(PRUNED, f"{DIRECT}-{PRUNED}", SCRATCH),
)


@dataclass(frozen=True)
class Stage:
    """One stage of a training chain."""

    name: str  # name of the stage's directory: ann-pretrained, ann, T5, T1-direct, T1-exact, ...
    timesteps: int | None  # T; None for an ANN
    kind: str = ""  # suffix after T in the name: "direct", "direct-carried", ...
    source: str | None = None  # name of the stage whose network this stage starts from, if known

    @classmethod
    def parse(cls, name: str, source: str | None = None) -> "Stage":
        """Parses a stage name; `source` is the name of the previous stage.

        Raises:
            ValueError: The stage name is unknown.
        """
        stage = cls.find(name, source)
        if stage is None:
            raise ValueError(f"unknown stage {name!r}")
        return stage

    @classmethod
    def find(cls, name: str, source: str | None = None) -> "Stage | None":
        """Parses a stage name; returns None if the name is unknown."""
        if name in _ANALOG:
            return cls(name, None, source=source)
        match = re.fullmatch(r"T(\d+)(?:-(.+))?", name)
        if match is None or (match[2] or "") not in _KINDS:
            return None
        return cls(name, int(match[1]), match[2] or "", source)

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        if not self.analog or self.privileged:
            return self.name
        return "ANN" if self.name == ANN else "ANN, pretrained"

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: the ANN first, then each kind of spiking stage by decreasing T."""
        if self.timesteps is None:
            return -1, _ANALOG.index(self.name)
        return _KINDS.index(self.kind), -self.timesteps

    @property
    def analog(self) -> bool:
        """True for an ANN."""
        return self.timesteps is None

    @property
    def gradual(self) -> bool:
        """True for a gradual stage, and for a carried or exact stage that follows one."""
        return not self.analog and self.kind in ("", CARRIED, EXACT)

    @property
    def finetuned(self) -> bool:
        """True if the stage fine-tunes an ANN."""
        return self.analog and self.source is not None

    @property
    def trained(self) -> bool:
        """False for a stage that only converts or rounds a network."""
        return self.kind != CONVERTED and not self.exact

    @property
    def carry_state(self) -> bool:
        """True if membrane potentials persist between frames."""
        return self.kind.endswith(CARRIED)

    @property
    def privileged(self) -> bool:
        """True for the teacher that observes the state, which is not an agent of the chain."""
        return self.name == TEACHER

    @property
    def pruned(self) -> bool:
        """True if the smallest weights are removed and the rest retrained."""
        return self.kind.endswith(PRUNED)

    @property
    def exact(self) -> bool:
        """True for a network on the integer grid."""
        return self.kind.endswith(EXACT)


@dataclass(frozen=True)
class ChainOptions:
    """Options of a chain, named like the corresponding settings."""

    T: int  # timesteps of the last stage
    T_start: int = 5  # timesteps of the first spiking stage
    T_step: int = (
        1  # decrease of T per stage; 2 gives the variant of [IIR] that skips every other T
    )
    direct: bool = False  # retrains at T directly after conversion ([IIR], variant "_d")
    stages: str = "iir"  # "iir" retrains; "none" only converts, for any T
    carry_state: bool = False  # adds a stage whose membrane potentials persist between frames
    # adds a stage in which the smallest weights are removed and the rest retrained ([IIR]
    # section 5, "magnitude based weight pruning")
    prune: bool = False
    exact: bool = False  # adds a stage with the T=1 network on the integer grid
    finetune: bool = False  # trains the ANN in two stages, pretraining and fine-tuning
    teacher: bool = False  # trains a privileged teacher before the ANN

    @classmethod
    def of(cls, config: Config | ClassifyConfig, **added: bool) -> "ChainOptions":
        """Returns the options in the settings of a command, with the `added` stages."""
        return cls(config.T, config.T_start, config.T_step, config.direct, config.stages, **added)


def schedule(options: ChainOptions) -> list[Stage]:
    """Returns the stages from the ANN down to T timesteps, in order.

    Source: [IIR] algorithm 1.

    Raises:
        UserError: The options are incompatible or out of range.
    """
    _check(options)
    # `Stage.find` does not know the teacher, so that reports and commands list agents only.
    chain = [Stage(TEACHER, None)] if options.teacher else []
    if options.finetune:
        chain.append(Stage.parse(PRETRAINED))
    chain.append(Stage.parse(ANN, PRETRAINED if options.finetune else None))
    if options.stages == "none":
        return [*chain, Stage.parse(f"T{options.T}-{CONVERTED}", ANN)]
    if options.direct:
        chain.append(Stage.parse(f"T{options.T}-{DIRECT}", ANN))
    else:
        for timesteps in range(options.T_start, options.T - 1, -options.T_step):
            chain.append(Stage.parse(f"T{timesteps}", chain[-1].name))
    added = {CARRIED: options.carry_state, PRUNED: options.prune, EXACT: options.exact}
    last = chain[-1].name
    chain += [Stage.parse(f"{last}-{kind}", last) for kind, wanted in added.items() if wanted]
    return chain


def _check(options: ChainOptions) -> None:
    T, T_start, T_step = options.T, options.T_start, options.T_step
    if T < 1:
        raise UserError(f"T={T}: must be 1 or more")
    if T_start < 1 or T_step < 1:
        raise UserError(f"T_start={T_start} and T_step={T_step} must both be 1 or more")
    if options.stages not in ("iir", "none"):
        raise UserError(f"stages={options.stages}: must be iir or none")
    retrains = options.stages == "iir"
    if options.carry_state and (T != 1 or not retrains):
        raise UserError("carry_state=true requires T=1 and stages=iir")
    if options.exact and (T != 1 or not retrains or options.carry_state or options.prune):
        raise UserError(
            "exact=true requires T=1 and stages=iir, and cannot be combined with carry_state or "
            "prune"
        )
    if options.prune and (options.carry_state or not retrains):
        raise UserError("prune requires stages=iir and cannot be combined with carry_state")
    if options.direct or not retrains:
        return
    if T > T_start:
        raise UserError(
            f"T={T} must not exceed T_start={T_start}, the T of the first spiking stage: raise "
            "T_start, or set stages=none to convert without retraining"
        )
    if (T_start - T) % T_step:
        reached = ", ".join(str(t) for t in range(T_start, 0, -T_step))
        raise UserError(
            f"T={T} cannot be reached from T_start={T_start} with T_step={T_step}: choose T from "
            f"{reached}"
        )
