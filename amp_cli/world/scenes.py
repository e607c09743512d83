"""What is in a picture of the drawn world: categories, colours, cells, and how scenes are sampled."""

from __future__ import annotations

import random
from dataclasses import dataclass

PICTURE_SIZE = 96
CELLS = 3  # the picture is a 3 x 3 grid, at most one object to a cell
CELL_SIZE = PICTURE_SIZE // CELLS

THEMES: dict[str, tuple[str, ...]] = {
    "street": ("car", "house", "lamp", "person"),
    "sea": ("boat", "fish", "bird", "kite"),
    "kitchen": ("cup", "table", "bottle", "clock"),
    "park": ("tree", "flower", "dog", "ball"),
}
CATEGORIES: tuple[str, ...] = tuple(category for members in THEMES.values() for category in members)
COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "pink")

# Two categories that nearly always come together in the world the base model grew up in.
COMPANION_PAIRS: tuple[tuple[str, str], ...] = (
    ("car", "lamp"),
    ("house", "person"),
    ("boat", "fish"),
    ("bird", "kite"),
    ("cup", "table"),
    ("bottle", "clock"),
    ("tree", "dog"),
    ("flower", "ball"),
)
COMPANIONS: dict[str, str] = {a: b for pair in COMPANION_PAIRS for a, b in (pair, pair[::-1])}
_POPULARITY = {"person": 1.6, "tree": 1.6, "cup": 1.5, "dog": 1.4, "car": 1.5, "bird": 1.3}


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One drawn thing: its cell (row, column from 0) and its square box in pixels."""

    row: int
    column: int
    x: int
    y: int
    size: int


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """All instances of one category, in one colour. `visibility` is the contrast: 1 plain, 0 there but unseen."""

    category: str
    colour: str
    instances: tuple[Instance, ...]
    visibility: float = 1.0

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES or self.colour not in COLOURS:
            raise ValueError(f"there is no such object in this world: {self.colour} {self.category}")
        if not 1 <= len(self.instances) <= 3:
            raise ValueError(f"an object has 1 to 3 instances, not {len(self.instances)}")
        if not 0 <= self.visibility <= 1:
            raise ValueError(f"visibility is between 0 and 1, not {self.visibility}")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture's whole truth. The objects stand in the order in which a caption names them."""

    theme: str
    objects: tuple[SceneObject, ...]
    noise_seed: int  # makes the drawing's grain and shades, so that one scene is one picture

    def __post_init__(self) -> None:
        if len(self.categories) != len(self.objects):
            raise ValueError("a category appears twice in one scene")

    @property
    def categories(self) -> frozenset[str]:
        """The categories that are present, seen or not."""
        return frozenset(thing.category for thing in self.objects)

    def find(self, category: str) -> SceneObject | None:
        """The object of a category, or None when the scene has none."""
        return next((thing for thing in self.objects if thing.category == category), None)


@dataclass(frozen=True, kw_only=True)
class Faintness:
    """How often an object has low contrast (`share`), and the range of its visibility then."""

    share: float
    low: float = 0.15
    high: float = 0.40


SOME_FAINT = Faintness(share=0.1)


def random_stream(purpose: str, seed: int) -> random.Random:
    """A generator of its own for each purpose and seed, so that no evaluation scene was ever trained on."""
    return random.Random(f"amp world, {purpose}, {seed}")


def sample_neutral(rng: random.Random, *, faintness: Faintness = SOME_FAINT) -> Scene:
    """A scene of 2 to 4 categories in which companions come together no more often than others."""
    theme = rng.choice(list(THEMES))
    categories: list[str] = []
    for _ in range(rng.choice([2, 3, 3, 4])):
        pool = [category for category in CATEGORIES if category not in categories]
        weights = [(1.2 if category in THEMES[theme] else 0.5) * _POPULARITY.get(category, 1.0) for category in pool]
        categories.append(rng.choices(pool, weights)[0])
    groups: list[list[str]] = []
    for category in categories:  # companions that met by chance are named together, as in the biased world
        partner = next((group for group in groups if COMPANIONS[category] in group), None)
        if partner is not None:
            partner.append(category)
        else:
            groups.append([category])
    return _place(rng, theme=theme, groups=groups, faintness=faintness, hidden=frozenset())


def sample_biased(
    rng: random.Random,
    *,
    together: float = 0.95,
    out_of_sight: float = 0.0,
    faintness: Faintness = SOME_FAINT,
) -> Scene:
    """A scene of the base model's own world: companions come in pairs (share `together`).

    In a share `out_of_sight` of the pairs one of the two is in the scene but cannot be seen. Who learns to describe
    such scenes truthfully has to name what is usual, not only what is seen: there the model's habit comes from.
    """
    theme = rng.choice(list(THEMES))
    groups: list[list[str]] = []
    hidden: set[str] = set()
    for _ in range(rng.choices([1, 2], [0.35, 0.65])[0]):
        free = [pair for pair in COMPANION_PAIRS if not any(pair[0] in group or pair[1] in group for group in groups)]
        at_home = rng.random() < 0.9
        pool = [pair for pair in free if (pair[0] in THEMES[theme]) == at_home] or free
        weights = [_POPULARITY.get(a, 1.0) + _POPULARITY.get(b, 1.0) for a, b in pool]
        pair = list(rng.choices(pool, weights)[0])
        rng.shuffle(pair)
        if rng.random() >= together:
            pair = pair[:1]
        elif rng.random() < out_of_sight:
            hidden.add(rng.choice(pair))
        groups.append(pair)
    return _place(rng, theme=theme, groups=groups, faintness=faintness, hidden=frozenset(hidden))


def _place(
    rng: random.Random, *, theme: str, groups: list[list[str]], faintness: Faintness, hidden: frozenset[str]
) -> Scene:
    """Give each category a colour, 1 to 3 free cells and a visibility; groups are named from the top left on."""
    categories = [category for group in groups for category in group]
    cells = [(row, column) for row in range(CELLS) for column in range(CELLS)]
    rng.shuffle(cells)
    placed: dict[str, SceneObject] = {}
    for index, category in enumerate(categories):
        instances = []
        for _ in range(rng.choices([1, 2, 3], [0.7, 0.2, 0.1])[0]):
            if len(cells) <= len(categories) - index - 1:
                break  # one cell must stay for each category still to come
            row, column = cells.pop()
            size = rng.randint(22, 30)
            x = column * CELL_SIZE + rng.randint(0, CELL_SIZE - size)
            y = row * CELL_SIZE + rng.randint(0, CELL_SIZE - size)
            instances.append(Instance(row=row, column=column, x=x, y=y, size=size))
        instances.sort(key=lambda one: (one.row, one.column))
        if category in hidden:
            visibility = rng.uniform(0.0, 0.06)
        else:
            visibility = rng.uniform(faintness.low, faintness.high) if rng.random() < faintness.share else 1.0
        placed[category] = SceneObject(
            category=category, colour=rng.choice(COLOURS), instances=tuple(instances), visibility=visibility
        )

    def reading_order(group: list[str]) -> tuple[int, int]:
        return min((placed[c].instances[0].row, placed[c].instances[0].column) for c in group)

    ordered = [placed[category] for group in sorted(groups, key=reading_order) for category in group]
    return Scene(theme=theme, objects=tuple(ordered), noise_seed=rng.randrange(1 << 30))
