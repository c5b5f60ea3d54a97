"""SmartDeal: weights as sparse power-of-two coefficients times a small basis."""

from popshift.gen.compress.smartdeal.decomposition import Decomposition
from popshift.gen.compress.smartdeal.layers import LayerReport, decompose, decomposition
from popshift.gen.compress.smartdeal.options import SmartDealConfig

__all__ = ["Decomposition", "LayerReport", "SmartDealConfig", "decompose", "decomposition"]
