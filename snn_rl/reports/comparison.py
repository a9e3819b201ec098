"""Text of the evaluate command: a spiking agent beside its ANN."""

from snn_rl.chain.records import Comparison


def format_comparison(comparison: Comparison) -> str:
    """Returns the results of an evaluation as text."""
    stage, trials = comparison.stage, comparison.evaluation
    columns = [
        (f"{name} {column}", results)
        for name, both in (("ANN", comparison.ann), (stage, comparison))
        for column, results in both.columns.items()
    ]
    width = max(18, *(len(title) + 2 for title, _ in columns))

    def row(title: str, cells: list[str]) -> str:
        return f"{title:<22}" + "".join(f"{cell:>{width}}" for cell in cells)

    lines = [
        f"{comparison.env}, {stage} of {comparison.run}: {trials.episodes} episodes per column, "
        f"epsilon {trials.epsilon:g}, sticky {trials.sticky:g}",
        "",
        row("", [title for title, _ in columns]),
        row("mean return", [f"{c.mean:.2f}" for _, c in columns]),
        row("standard deviation", [f"{c.std:.2f}" for _, c in columns]),
        row("95 % interval", ["{:.2f} to {:.2f}".format(*c.interval) for _, c in columns]),
        row("distinct episodes", [str(c.distinct) for _, c in columns]),
        row("at the time limit", [str(c.capped) for _, c in columns]),
        row("same action as the ANN", [_percent(c.agreement) for _, c in columns]),
    ]
    for i, layer in enumerate(comparison.layers):
        lines.append(row(f"spike rate {layer}", [f"{c.spike_rates[i]:.4f}" for _, c in columns]))
    lines += [
        "",
        "Spike rate: spikes per neuron and decision; for the ANN, the fraction of non-zero",
    ]
    lines += ["activations.", ""]
    if ratios := comparison.energy:
        lines += [
            f"Energy of a decision, ANN / {stage} (greedy episodes, operations only):",
            f"  {ratios['float32']:.2f}  float32",
            f"  {ratios['int32']:.2f}  int32",
            f"  {ratios['float32_skipping']:.2f}  float32, for an ANN engine that skips zeros",
            "",
        ]
    if work := comparison.work:
        lines += [
            f"Event-driven engine, all episodes: {work['macs']:,.0f} multiply-accumulates and "
            f"{work['acs']:,.0f} accumulates per",
            f"decision; energy of the dense ANN / engine: {work['float32']:.2f} float32, "
            f"{work['int32']:.2f} int32",
            "",
        ]
    for title, results in columns:
        lines.append(f"{title}: " + " ".join(f"{r:g}" for r in results.returns))
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
