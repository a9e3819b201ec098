"""Plays Pong with an exported agent, using only onnxruntime, OpenCV, NumPy, and ale-py.

python -m snn_rl.export env=PongNoFrameskip-v4 T=1 format=onnx output=pong.onnx
python examples/play_pong_onnx.py pong.onnx
"""

import sys

import cv2
import numpy as np
from ale_py import ALEInterface, roms


class Pong:
    """Pong with the preprocessing of the agent: frame skip 4, 84x84 grayscale, stack of 4."""

    def __init__(self, noops=1):
        self.ale = ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(roms.get_rom_path("pong"))
        self.actions = self.ale.getMinimalActionSet()
        self.pixels, self.score = np.zeros((1, 4, 84, 84), np.uint8), 0
        for _ in range(noops):
            self.ale.act(0)
        frame = [self.skip(action) for action in (1, 2)][-1]  # FIRE serves the ball as in training
        self.see(frame)

    def skip(self, action):
        """Repeats an action for 4 frames and returns the pixelwise maximum of the last two."""
        frames = []
        for _ in range(4):
            self.score += self.ale.act(self.actions[action])
            frames.append(self.ale.getScreenRGB())
        return np.maximum(frames[-2], frames[-1])

    def see(self, frame):
        """Appends a frame, resized and in grayscale, to the stack."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA)
        self.pixels = np.concatenate([self.pixels[:, 1:], small[None, None]], axis=1)


if __name__ == "__main__":
    import onnxruntime  # imported here because event_engine.py uses the class above without it

    session, game = onnxruntime.InferenceSession(sys.argv[1]), Pong()
    while not game.ale.game_over():
        (q_values,) = session.run(["q_values"], {"pixels": game.pixels})
        game.see(game.skip(q_values[0].argmax()))
    print(f"{game.score} points")
