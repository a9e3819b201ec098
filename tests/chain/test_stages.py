"""Names, order and schedule of stages."""

import pytest

from snn_rl.chain.stages import ANN, PRETRAINED, ChainOptions, Stage, schedule
from snn_rl.utils.errors import UserError


def links(chain: list[Stage]) -> list[tuple[str, int | None, str | None, bool]]:
    return [(s.name, s.timesteps, s.source, s.trained) for s in chain]


@pytest.mark.parametrize(
    ("options", "timesteps"),
    [
        ({"T": 1}, [5, 4, 3, 2, 1]),
        ({"T": 3}, [5, 4, 3]),
        ({"T": 5}, [5]),
        ({"T": 1, "T_step": 2}, [5, 3, 1]),
        ({"T": 3, "T_step": 2}, [5, 3]),
        ({"T": 1, "T_start": 9, "T_step": 4}, [9, 5, 1]),
        ({"T": 2, "T_start": 3}, [3, 2]),
        ({"T": 1, "T_start": 1}, [1]),
    ],
)
def test_gradual_reduction(options, timesteps):
    names = [ANN, *(f"T{t}" for t in timesteps)]
    expected = [(ANN, None, None, True)]
    for t, name, before in zip(timesteps, names[1:], names[:-1], strict=True):
        expected.append((name, t, before, True))
    assert links(schedule(ChainOptions(**options))) == expected


@pytest.mark.parametrize("T", [1, 4, 8])
def test_direct_retraining_starts_from_the_ann(T):
    assert links(schedule(ChainOptions(T, direct=True))) == [
        (ANN, None, None, True),
        (f"T{T}-direct", T, ANN, True),
    ]


@pytest.mark.parametrize("T", [1, 100])
def test_conversion_without_retraining(T):
    expected = [(ANN, None, None, True), (f"T{T}-converted", T, ANN, False)]
    assert links(schedule(ChainOptions(T, stages="none"))) == expected


@pytest.mark.parametrize("direct", [False, True])
def test_a_carried_stage_follows_the_t1_stage(direct):
    before = schedule(ChainOptions(1, direct=direct))
    chain = schedule(ChainOptions(1, direct=direct, carry_state=True))
    assert chain[:-1] == before
    name, kind = before[-1].name, before[-1].kind
    assert chain[-1] == Stage(f"{name}-carried", 1, f"{kind}-carried".removeprefix("-"), name)


@pytest.mark.parametrize("direct", [False, True])
def test_an_exact_stage_ends_the_chain(direct):
    before = schedule(ChainOptions(1, direct=direct))
    chain = schedule(ChainOptions(1, direct=direct, exact=True))
    assert chain[:-1] == before
    name, kind = before[-1].name, before[-1].kind
    assert chain[-1] == Stage(f"{name}-exact", 1, f"{kind}-exact".removeprefix("-"), name)


def test_variants_have_different_directories():
    variants = [
        schedule(ChainOptions(3)),
        schedule(ChainOptions(3, direct=True)),
        schedule(ChainOptions(3, stages="none")),
    ]
    variants += [
        schedule(ChainOptions(1, carry_state=True)),
        schedule(ChainOptions(1, direct=True, carry_state=True)),
    ]
    variants += [
        schedule(ChainOptions(1, exact=True)),
        schedule(ChainOptions(1, direct=True, exact=True)),
    ]
    names = [chain[-1].name for chain in variants]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T": 0}, "T=0"),
        ({"T": -1}, "T=-1"),
        ({"T": 0, "stages": "none"}, "T=0"),
        ({"T": 0, "direct": True}, "T=0"),
        ({"T": 6}, "T=6 must not exceed T_start=5"),
        ({"T": 2, "T_start": 1}, "T=2 must not exceed T_start=1"),
        ({"T": 1, "T_start": 0}, "T_start=0"),
        ({"T": 1, "T_step": 0}, "T_step=0"),
        ({"T": 1, "T_step": -1}, "T_step=-1"),
        ({"T": 2, "T_step": 2}, "5, 3, 1"),
        ({"T": 1, "T_start": 6, "T_step": 2}, "6, 4, 2"),
        ({"T": 1, "stages": "all"}, "stages=all"),
        ({"T": 2, "carry_state": True}, "T=1"),
        ({"T": 1, "stages": "none", "carry_state": True}, "stages=iir"),
        ({"T": 2, "exact": True}, "T=1"),
        ({"T": 1, "stages": "none", "exact": True}, "stages=iir"),
        ({"T": 1, "carry_state": True, "exact": True}, "cannot be combined with carry_state"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message) as caught:
        schedule(ChainOptions(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "timesteps", "kind"),
    [
        *((ANN, None, ""), (PRETRAINED, None, ""), ("T1", 1, ""), ("T250", 250, "")),
        *(("T1-carried", 1, "carried"), ("T1-exact", 1, "exact"), ("T3-direct", 3, "direct")),
        *(("T100-converted", 100, "converted"), ("T1-direct-exact", 1, "direct-exact")),
        *(("T2-scratch", 2, "scratch"), ("T1-direct-pruned", 1, "direct-pruned")),
    ],
)
def test_the_name_of_a_stage_is_parsed(name, timesteps, kind):
    stage = Stage.parse(name)
    assert (stage.name, stage.timesteps, stage.kind, stage.source) == (name, timesteps, kind, None)
    assert stage.analog == (timesteps is None)
    assert stage.trained == (kind not in ("converted", "exact", "direct-exact"))
    assert stage.exact == name.endswith("exact")
    assert stage.carry_state == name.endswith("carried")
    assert stage.pruned == name.endswith("pruned")


@pytest.mark.parametrize(
    "name",
    ["", "T", "Tx", "T1-", "T1-more", "T1-converted-exact", "T1-exact-direct", "ann-x", "t1"],
)
def test_unknown_names_are_refused(name):
    assert Stage.find(name) is None
    with pytest.raises(ValueError, match="unknown stage"):
        Stage.parse(name)


def test_stages_are_sorted():
    names = [
        *(PRETRAINED, ANN, "T12", "T5", "T1", "T1-carried", "T1-exact", "T3-direct", "T1-direct"),
        *("T1-direct-carried", "T1-direct-exact", "T100-converted", "T1-pruned", "T1-scratch"),
    ]
    stages = [Stage.parse(name) for name in names[::-1]]
    assert [stage.name for stage in sorted(stages, key=lambda stage: stage.order)] == names


def test_anns_have_labels_of_their_own():
    labels = {name: Stage.parse(name).label for name in (PRETRAINED, ANN, "T1", "T1-direct")}
    assert list(labels.values()) == ["ANN, pretrained", "ANN", "T1", "T1-direct"]


def test_fine_tuning_adds_a_stage_before_the_ann():
    chain = schedule(ChainOptions(T=1, T_start=1, finetune=True))
    assert [stage.name for stage in chain] == [PRETRAINED, ANN, "T1"]
    assert [stage.finetuned for stage in chain] == [False, True, False]
    assert [stage.source for stage in chain] == [None, PRETRAINED, ANN]
