"""ONNX forms of arithmetic and of operators on shapes."""

from __future__ import annotations

from onceforall.errors import BlueprintError
from onceforall.graph import Batch, DType, Node
from onceforall.measure.onnx.writer import GraphWriter
from onceforall.supernets.graphs.rules import reduced_dims

BINARY = {
    "add.Tensor": "Add", "sub.Tensor": "Sub", "mul.Tensor": "Mul", "div.Tensor": "Div",
    "add.Scalar": "Add", "sub.Scalar": "Sub", "mul.Scalar": "Mul", "div.Scalar": "Div",
    "maximum.default": "Max", "minimum.default": "Min", "pow.Tensor_Scalar": "Pow",
}  # fmt: skip


def same(to: GraphWriter, index: int, node: Node) -> str:
    """The operand."""
    return to.value(node.args[0])


def binary(to: GraphWriter, index: int, node: Node) -> str:
    """Two operands, value by value."""
    if node.kwargs:
        raise BlueprintError(f"node {node.name}: {node.op} with {node.kwargs}")
    op = BINARY[node.op]
    return to.node(op, [to.value(part) for part in node.args[:2]])


def reduce(to: GraphWriter, index: int, node: Node) -> str:
    """Means, sums and norms."""
    dims, keep = reduced_dims(node, len(to.shape(node.args[0])))
    x = to.value(node.args[0])
    if node.op == "sum.dim_IntList":
        return to.node("ReduceSum", [x, to.ints(dims)], keepdims=int(keep))
    if node.op == "linalg_vector_norm.default" and float(node.args[1]) != 2:
        raise BlueprintError(f"node {node.name}: norm {node.args[1]}")
    op = {"mean.dim": "ReduceMean", "amax.default": "ReduceMax"}.get(node.op, "ReduceL2")
    return to.node(op, [x], axes=dims, keepdims=int(keep))


def addcmul(to: GraphWriter, index: int, node: Node) -> str:
    """A sum with a product."""
    x, first, second = (to.value(part) for part in node.args[:3])
    factor = dict(node.kwargs).get("value", 1)
    product = to.node("Mul", [first, second])
    if factor != 1:
        product = to.node("Mul", [product, to.value(float(factor))])
    return to.node("Add", [x, product])


def matmul(to: GraphWriter, index: int, node: Node) -> str:
    """Product of matrices."""
    return to.node("MatMul", [to.value(part) for part in node.args[:2]])


def einsum(to: GraphWriter, index: int, node: Node) -> str:
    """Einstein sum."""
    equation = node.args[0].replace(" ", "")
    return to.node("Einsum", [to.value(p) for p in node.args[1]], equation=equation)


def reshape(to: GraphWriter, index: int, node: Node) -> str:
    """Another shape; the dimension that counts images is worked out."""
    sizes = [-1 if isinstance(size, Batch) else int(size) for size in node.args[1]]
    if sizes.count(-1) > 1:
        raise BlueprintError(f"node {node.name}: two dimensions count images")
    return to.node("Reshape", [to.value(node.args[0]), to.ints(sizes)])


def expand(to: GraphWriter, index: int, node: Node) -> str:
    """Values repeated along dimensions of length 1."""
    parts = [
        to.batch_size(size.times) if isinstance(size, Batch) else to.ints([int(size)])
        for size in node.args[1]
    ]
    return to.node("Expand", [to.value(node.args[0]), to.node("Concat", parts, axis=0)])


def permute(to: GraphWriter, index: int, node: Node) -> str:
    """Dimensions in another order."""
    return to.node("Transpose", [to.value(node.args[0])], perm=list(node.args[1]))


def slice_along(to: GraphWriter, index: int, node: Node) -> str:
    """A part along one dimension."""
    x, dim, start, end, step = node.args
    ends = [to.ints([int(each)]) for each in (start, end, dim, step)]
    return to.node("Slice", [to.value(x), *ends])


def select(to: GraphWriter, index: int, node: Node) -> str:
    """One place along one dimension."""
    x, dim, place = node.args
    return to.node("Gather", [to.value(x), to.onnx.index(place)], axis=dim)


def cat(to: GraphWriter, index: int, node: Node) -> str:
    """Tensors one after the other."""
    return to.node("Concat", [to.value(part) for part in node.args[0]], axis=node.args[1])


def pad(to: GraphWriter, index: int, node: Node) -> str:
    """More values around."""
    x, pads, mode, value = (*node.args, "constant", None)[:4]
    ndim = len(to.shape(x))
    before, after = [0] * ndim, [0] * ndim
    for place in range(len(pads) // 2):
        before[ndim - 1 - place], after[ndim - 1 - place] = pads[2 * place : 2 * place + 2]
    if mode != "constant":
        raise BlueprintError(f"node {node.name}: padding {mode}")
    fill = to.value(float(value or 0.0))
    return to.node("Pad", [to.value(x), to.ints([*before, *after]), fill])


def roll(to: GraphWriter, index: int, node: Node) -> str:
    """Values moved around along dimensions."""
    x = to.value(node.args[0])
    for shift, dim in zip(node.args[1], node.args[2], strict=True):
        size = int(to.shape(node.args[0])[dim])
        cut, axis = to.ints([(-shift) % size]), to.ints([dim])
        tail = to.node("Slice", [x, cut, to.ints([size]), axis])
        head = to.node("Slice", [x, to.ints([0]), cut, axis])
        x = to.node("Concat", [tail, head], axis=dim)
    return x


def cast(to: GraphWriter, index: int, node: Node) -> str:
    """Values in another number format; all that is computed of images is float32 already."""
    x, wanted = node.args[:2]
    if not isinstance(wanted, DType) or wanted.name != "float32":
        raise BlueprintError(f"node {node.name}: {node.op} to {wanted}")
    return to.value(x)


def upsample(to: GraphWriter, index: int, node: Node) -> str:
    """Nearest values on a finer grid."""
    # Sizes, not scales: 3 times 7 / 3 is below 7.
    rest = to.ints([int(size) for size in node.shape[1:]])
    sizes = to.node("Concat", [to.batch_size(1), rest], axis=0)
    return to.node(
        "Resize", [to.value(node.args[0]), "", "", sizes], mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def masked_fill(to: GraphWriter, index: int, node: Node) -> str:
    """A number where a mask says so."""
    x, mask, value = node.args
    return to.node("Where", [to.value(mask), to.value(float(value)), to.value(x)])
