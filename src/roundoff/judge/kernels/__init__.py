"""The kernels: is each step's local error within what a correct kernel can make?"""

from roundoff.judge.kernels.check import Fault, KernelCheck, limits

__all__ = ["Fault", "KernelCheck", "limits"]
