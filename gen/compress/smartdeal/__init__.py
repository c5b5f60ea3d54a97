"""SmartDeal: weights as sparse power-of-two coefficients times a small basis."""

from popshift.gen.compress.smartdeal.decomposition import Decomposition
from popshift.gen.compress.smartdeal.layers import compression, decompose, decomposition, is_decomposed
from popshift.gen.compress.smartdeal.options import SmartDealConfig, require_smartdeal
from popshift.gen.compress.smartdeal.report import Compression, LayerReport

__all__ = [
    "Compression",
    "Decomposition",
    "LayerReport",
    "SmartDealConfig",
    "compression",
    "decompose",
    "decomposition",
    "is_decomposed",
    "require_smartdeal",
]
