"""Adapts genotypes to other models, and compares two genotypes."""

import warnings
from pathlib import Path

from peml.prefix.genotype import Genotype
from peml.prefix.shape import PrefixShape


def adapt(genotype: Genotype, shape: PrefixShape) -> tuple[Genotype, list[str]]:
    """Adapts a genotype to a model of another shape.

    Cells, length, width and head don't depend on the model and stay. Each layer's gate is taken
    from the layer at the same relative depth; heads and channels are the new model's.

    Returns:
        The adapted genotype, which records the changes under ``found_by.adapted``, and the changes,
        one line each. Without changes, the given genotype.
    """
    changes = []
    layers = genotype.layers
    if len(layers) != shape.layers:
        layers = _remapped(layers, shape.layers)
        on = ", ".join(str(index) for index, gate in enumerate(layers) if gate)
        changes.append(
            f"layers: {len(genotype.layers)} -> {shape.layers}, "
            f"{sum(genotype.layers)} with a prefix -> {sum(layers)} (on: {on})"
        )
    elif genotype.shape.layers != shape.layers:
        changes.append(f"shape.layers: {genotype.shape.layers} -> {shape.layers}")
    for name in ("kv_heads", "head_dim"):
        old, new = getattr(genotype.shape, name), getattr(shape, name)
        if old != new:
            changes.append(f"{name}: {old} -> {new}")
    if not changes:
        return genotype, []
    found_by = {**genotype.found_by, "adapted": list(changes)}
    update = {"layers": layers, "shape": shape, "found_by": found_by}
    return genotype.model_copy(update=update), changes


def load_for(path: Path, shape: PrefixShape, *, adapted: bool = False) -> Genotype:
    """Reads a genotype file for training on a model of this shape.

    One of another shape is adapted if allowed; a warning lists the changes.

    Raises:
        ConfigError: The file can't be used, or was made for another shape.
    """
    genotype = Genotype.load(path)
    if adapted:
        genotype, changes = adapt(genotype, shape)
        if changes:
            warnings.warn(f"{path} was adapted: {'; '.join(changes)}", stacklevel=2)
        return genotype
    genotype.check_fits(shape)
    return genotype


def differences(first: Genotype, second: Genotype) -> list[tuple[str, str, str]]:
    """Differences of two networks as (field, first, second); ignores how they were found."""
    a, b = _fields(first), _fields(second)
    names = list(dict.fromkeys([*a, *b]))
    pairs = [(name, a.get(name, "none"), b.get(name, "none")) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]


def _fields(genotype: Genotype) -> dict[str, str]:
    low_rank = genotype.head == "low-rank"
    return {
        **{f"cell.{index}": name for index, name in enumerate(genotype.cells)},
        "length": str(genotype.length),
        **{f"layer.{index}": "on" if on else "off" for index, on in enumerate(genotype.layers)},
        "head": f"low-rank, rank {genotype.head_rank}" if low_rank else genotype.head,
        "width": str(genotype.width),
        "radius": f"{genotype.radius:g}",
        "kv_heads": str(genotype.shape.kv_heads),
        "head_dim": str(genotype.shape.head_dim),
        **{f"rank.{group}": str(rank) for group, rank in genotype.ranks.items()},
    }


def _remapped(layers: tuple[bool, ...], count: int) -> tuple[bool, ...]:
    """Gates of ``count`` layers, each from the old layer at its relative depth."""
    old = len(layers)
    gates = [layers[(2 * index + 1) * old // (2 * count)] for index in range(count)]
    if not any(gates):  # with fewer layers, none may map to a layer that is on
        gates[layers.index(True) * count // old] = True
    return tuple(gates)
