"""Genotypes on other models than their own, and side by side."""

from __future__ import annotations

import warnings
from pathlib import Path

from peml.prefix.genotype import Genotype
from peml.prefix.shape import PrefixShape


def adapt(genotype: Genotype, shape: PrefixShape) -> tuple[Genotype, list[str]]:
    """A genotype for a model of another shape.

    Cells, length, width and head stay: they don't depend on the model. The layers' gates are
    taken from the layers at the same relative depth. Heads and channels are the new model's.

    Args:
        genotype: Made for any model.
        shape: Attention layers of the new model.

    Returns:
        The genotype, which keeps a record under ``found_by.adapted``, and what was changed, a line
        each; without changes it is the given one.
    """
    changes = []
    layers = genotype.layers
    if len(layers) != shape.layers:
        layers = _remapped(layers, shape.layers)
        changes.append(
            f"layers: {len(genotype.layers)} -> {shape.layers}, "
            f"{sum(genotype.layers)} with a prefix -> {sum(layers)} ({_listed(layers)})"
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
    """Reads the genotype to train on a model.

    Args:
        path: The file.
        shape: Attention layers of the model.
        adapted: Whether one that was made for another shape is adapted, with a warning that says
            what changed.

    Raises:
        ConfigError: The file can't be used, or was made for another shape.
    """
    genotype = Genotype.load(path)
    if adapted:
        genotype, changes = adapt(genotype, shape)
        if changes:
            warnings.warn(f"{path} was adapted: {'; '.join(changes)}", stacklevel=2)
        return genotype
    genotype.check(shape)
    return genotype


def differences(first: Genotype, second: Genotype) -> list[tuple[str, str, str]]:
    """What differs between two networks: field, first, second. How they were found is left out."""
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
    """Gates of ``count`` layers, each that of the old layer its middle falls into."""
    old = len(layers)
    gates = [layers[(2 * index + 1) * old // (2 * count)] for index in range(count)]
    if not any(gates):  # fewer layers, and all those on fell between them
        gates[layers.index(True) * count // old] = True
    return tuple(gates)


def _listed(layers: tuple[bool, ...]) -> str:
    return "on: " + ", ".join(str(index) for index, on in enumerate(layers) if on)
