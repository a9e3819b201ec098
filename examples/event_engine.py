"""Plays Pong with an event-driven agent, without PyTorch and Stable-Baselines3.

python -m snn_rl.export env=PongNoFrameskip-v4 T=1 exact=true format=event output=pong.event
python examples/event_engine.py pong.event

Needs only NumPy, numba, OpenCV, and ale-py.
"""

import sys
import time

import numpy as np
from play_pong_onnx import Pong

from snn_rl.event.engine import EventEngine
from snn_rl.event.network import EventNetwork

if __name__ == "__main__":
    network = EventNetwork.load(sys.argv[1])
    engine, game = EventEngine(network), Pong()
    engine(game.pixels[0])  # compiles
    micros, operations = [], []
    while not game.ale.game_over():
        start = time.perf_counter()
        action = engine.action(game.pixels[0])
        micros.append(1e6 * (time.perf_counter() - start))
        operations.append([engine.operations.macs, engine.operations.acs])
        game.see(game.skip(action))
    macs, acs = np.mean(operations, axis=0)
    print(f"{game.score} points, {np.median(micros):.0f} µs per decision")
    print(f"{macs:,.0f} multiply-accumulates and {acs:,.0f} accumulates per decision")
    print(f"({sum(network.macs):,} multiply-accumulates in a dense pass)")
