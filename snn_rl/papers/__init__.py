"""Figures and tables of the papers, reproduced from recorded runs, one module per paper."""

from snn_rl.papers import iir as iir
from snn_rl.papers import stdb as stdb
from snn_rl.papers import ull as ull
