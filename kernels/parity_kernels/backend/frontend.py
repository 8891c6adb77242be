"""How does the interpreter spend its time on tiles and not on their types?

Triton's front end makes a type and a shape of constants anew for every value of every program. A compiler does that
once a kernel; interpreted it was half of a forward pass. Here equal block types are one object, and what a value takes
from its type is made once a type. No value is touched: results are those of the stock front end, bit for bit.
"""

from __future__ import annotations

from typing import Any


def install(core: Any, semantic: Any) -> None:
    """Give `triton.language.core` shared block types, and `TritonSemantic` a short way for operands of equal shape."""
    _pass_plain_values(core)
    _share_block_types(core)
    _share_shapes(core)
    _pass_equal_shapes(core, semantic)


def _pass_plain_values(core: Any) -> None:
    """What is no constant and holds none needs no look inside; a type equals itself."""
    stock, constexpr = core._unwrap_if_constexpr, core.constexpr
    plain = frozenset({int, bool, float, str, type(None), core.tensor, core.dtype, core.pointer_type, core.block_type})

    def unwrap(value: Any) -> Any:
        kind = type(value)
        if kind in plain:
            return value
        return value.value if kind is constexpr else stock(value)

    core._unwrap_if_constexpr = unwrap
    stock_eq = core.dtype.__eq__

    def equal(self: Any, other: Any) -> bool:
        return self is other or stock_eq(self, other)

    core.dtype.__eq__ = equal


def _share_block_types(core: Any) -> None:
    block, constexpr = core.block_type, core.constexpr
    stock_init, stock_eq, stock_ir = block.__init__, block.__eq__, block.to_ir
    made: dict[tuple[Any, ...], Any] = {}

    def key_of(element: Any, shape: Any) -> tuple[Any, ...]:
        # Pointer types are not hashable; their names hold what they point to.
        extents = tuple([extent.value if isinstance(extent, constexpr) else extent for extent in shape])
        return type(element), element.name, getattr(element, "address_space", 0), getattr(element, "const", 0), extents

    def make(cls: Any, element_ty: Any, shape: Any) -> Any:
        if cls is not block or isinstance(shape, constexpr):
            return object.__new__(cls)
        key = key_of(element_ty, shape)
        known = made.get(key)
        if known is None:
            known = object.__new__(cls)
            known.shared_as = key
        return known

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        key = self.__dict__.get("shared_as")
        if key is not None and made.get(key) is self:
            return
        stock_init(self, element_ty, shape)  # raises for a shape that Triton refuses, which is then not kept
        if key is not None:
            made[key] = self

    def equal(self: Any, other: Any) -> bool:
        return self is other or stock_eq(self, other)

    def to_ir(self: Any, builder: Any) -> Any:
        known = self.__dict__.get("as_ir")
        if known is None:
            known = self.as_ir = stock_ir(self, builder)
        return known

    block.to_ir = to_ir
    block.__new__ = staticmethod(make)
    block.__init__ = init
    block.__eq__ = equal
    block.__hash__ = None


def _share_shapes(core: Any) -> None:
    stock_init = core.tensor.__init__

    def init(self: Any, handle: Any, type: Any) -> None:
        known = type.__dict__.get("of_a_tensor")
        if known is None:
            stock_init(self, handle, type)
            type.of_a_tensor = {name: value for name, value in self.__dict__.items() if name not in ("handle", "type")}
            return
        self.__dict__.update(known)
        self.handle, self.type = handle, type

    core.tensor.__init__ = init


def _pass_equal_shapes(core: Any, semantic: Any) -> None:
    block = core.block_type
    stock = semantic.broadcast_impl_value

    def broadcast_impl_value(self: Any, lhs: Any, rhs: Any) -> Any:
        left, right = lhs.type, rhs.type
        if left is right:
            return lhs, rhs
        if isinstance(left, block) and isinstance(right, block):
            if left.shape.values == right.shape.values:
                return lhs, rhs
        elif not (isinstance(left, block) or isinstance(right, block)):
            return lhs, rhs
        return stock(self, lhs, rhs)

    semantic.broadcast_impl_value = broadcast_impl_value
