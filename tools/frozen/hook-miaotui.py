"""PyInstaller's hook: modules that are imported by name, kernels compiled ahead, included models."""

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs, collect_submodules, copy_metadata

#: The compiler, its kernels' sources and the GPU's are for clones; they would bring Numba along.
_LEFT_OUT = ("miaotui.runtime.cuda", "miaotui.runtime.cpu.kernels", "miaotui.tests", "miaotui.tools.bench")

hiddenimports = collect_submodules("miaotui", filter=lambda name: not name.startswith(_LEFT_OUT))
excludedimports = ["numba", "llvmlite"]
binaries = collect_dynamic_libs("miaotui.runtime.cpu", search_patterns=["*.so"])
datas = collect_data_files("miaotui")
datas += copy_metadata("miaotui")
