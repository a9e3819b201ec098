"""Plays Pong in a terminal with an agent in C.

snn-rl export env=PongNoFrameskip-v4 T=1 exact=true format=c output=examples/pong_in_c/pong.c
cc -std=c99 -O3 examples/pong_in_c/main.c examples/pong_in_c/pong.c -o pong_agent
python examples/pong_in_c/play.py ./pong_agent [quiet]

The agent receives the screens of the emulator, draws them with 80 x 36 characters in real time, and
returns actions. `quiet` draws nothing and does not wait.
"""

import subprocess
import sys
import time

import numpy as np
from ale_py import ALEInterface, roms

FIRE, RIGHT = 1, 2


def play(program: str, *options: str, decisions: int = 100_000) -> int:
    """Returns the score of an episode, which ends after a number of decisions."""
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    rom = roms.get_rom_path("pong")
    assert rom is not None
    ale.loadROM(rom)
    actions, score = ale.getMinimalActionSet(), 0
    screens = [ale.getScreenRGB()]

    def skip(action: int) -> None:
        nonlocal score
        for _ in range(4):
            score += ale.act(actions[action])
            screens.append(ale.getScreenRGB())

    pipe = subprocess.PIPE
    with subprocess.Popen([program, *options], stdin=pipe, stdout=pipe) as agent:
        assert agent.stdin is not None and agent.stdout is not None
        for action in (FIRE, RIGHT):  # serves the ball as in training
            skip(action)
        screens[-2] = screens[-1]  # the first screen of the episode twice
        for _ in range(decisions):
            agent.stdin.write(np.ascontiguousarray(screens[-1]).tobytes())
            agent.stdin.write(np.ascontiguousarray(screens[-2]).tobytes())
            agent.stdin.flush()
            screens = screens[-2:]
            time.sleep(0 if "quiet" in options else 4 / 60)
            skip(agent.stdout.read(1)[0])
            if ale.game_over():
                break
        agent.stdin.close()
    return score


if __name__ == "__main__":
    print(f"{play(*sys.argv[1:])} points")
