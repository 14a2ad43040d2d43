"""Ask the processor for memory that is read soon: where reads jump about, waiting for them is most of the time."""

from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

LINE = 64  # Bytes of a cache line.
_view_of: Any = arrayobj.make_array  # Without types.


def _code(context: Any, array: Any, item: Any) -> Any:
    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = _view_of(signature.args[0])(context, builder, arguments[0]).data
        address, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, flag, flag, flag])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [address], kind)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), address)
        builder.call(ask, [place, flag(0), flag(3), flag(1)])  # To read, to keep near, data.
        return context.get_dummy_value()

    return types.void(array, types.int64), write


def _nothing(array: Any, item: Any) -> None:
    """Where kernels are interpreted."""


# In kernels, prefetch(array, item): begin to load what holds that item, counted from 0 in the order of memory. It may
# be any number: what lies nowhere is not loaded.
_config: Any = numba.config
prefetch: Any = _nothing if _config.DISABLE_JIT else intrinsic(_code)
