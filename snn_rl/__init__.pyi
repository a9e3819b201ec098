from snn_rl.agents.dqn import SpikingDQN as SpikingDQN
from snn_rl.agents.loading import Agent as Agent
from snn_rl.agents.loading import load as load
from snn_rl.agents.retraining import convert as convert
from snn_rl.agents.retraining import iir as iir
from snn_rl.core.networks import register_image_network as register_image_network
from snn_rl.core.networks import register_network as register_network
from snn_rl.core.surrogate import register_surrogate as register_surrogate
from snn_rl.envs import make_env as make_env
from snn_rl.envs import register_env_family as register_env_family
from snn_rl.formats import register_format as register_format

__version__: str
