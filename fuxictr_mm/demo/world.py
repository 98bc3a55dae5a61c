"""The world behind MMCTR_demo: items with a text and an image view, users with drifting interests, clicks.

Everything a click depends on can be seen in its row or in the item table, except chance; that is why the true
probability of a row can be computed (:meth:`World.impressions`). Only numpy: this file knows nothing of files.

Axis letters: U = users of a block, L = history length, C = candidates of a user, Z = width of an item's latent vector.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["CANDIDATES", "TAG_SLOTS", "Impressions", "Taste", "World"]

CANDIDATES = 4  # one is clicked
TAG_SLOTS = 5
LEVELS = 10
# What an item is about: a part that both views show, one that only its text shows, one that only its image shows.
SHARED, TEXT_ONLY, IMAGE_ONLY = 2, 4, 4
LATENT = SHARED + TEXT_ONLY + IMAGE_ONLY
# Each view also has directions of its own that mean nothing, weaker than those that do, but many. The image view is
# as much louder than the text view as real audio vectors are than real text vectors (Whisper 16.6, MiniLM 1.0), so
# that its noise hides the text from a PCA over both.
NUISANCE = 28
NUISANCE_STD = 0.4
VIEW_NOISE_STD = 0.1
TEXT_NORM, IMAGE_NORM = 1.0, 16.0

ITEMS_PER_TOPIC = 25
TOPIC_SHARE = 0.85  # of an item's variance
NEW_SHARE = 0.1  # items that appear only after train was collected
POPULARITY_STD = 1.0  # of the logarithm
INTERESTS = 8  # most long-term interests of one user
SWITCH = 0.65  # chance per click that a user turns to another interest
WANDER = 0.1  # chance per click that it has nothing to do with interests
RECENCY = 0.5  # weight of a click, relative to the one after it, in the recent interest
STRANGER = 0.4  # best cosine of an unrelated item with a history
RECALLED = 0.5  # share of candidates that were recalled by the topic of a history item; the rest by popularity
RIVALS = 192  # draws that stand for the competitors when the true probability is computed
GROUP = 256  # users whose logits are computed at once
TRIPLES = 8  # times that those draws are grouped by three


@dataclass(frozen=True)
class Taste:
    """Weights of the click logit; matches are cosines, levels are scaled to [-1, 1].

    Attributes:
        recent: match of the target with the latest clicks, for targets that the gate opens.
        lasting: best match of the target with any click, for targets that the gate shuts.
        level_product: likes level times views level.
        views_lasting: views level times best match; negative: what everybody watches needs no match.
        likes_recent: likes level times recent match.
        gate: how sharply a target's content decides between ``recent`` and ``lasting`` (news or evergreen).
    """

    recent: float = 5.0
    lasting: float = 16.0
    level_product: float = 1.5
    views_lasting: float = -8.0
    likes_recent: float = 6.0
    gate: float = 2.5


@dataclass(frozen=True)
class Impressions:
    """One block of users, each shown ``CANDIDATES`` items.

    Attributes:
        history: (U, L) item ids, 0 on the left where the history is shorter, latest last.
        item: (U, CANDIDATES) item ids.
        levels: (U, CANDIDATES, 2) likes and views level as the row shows them.
        label: (U, CANDIDATES) 0 or 1, one 1 per user.
        truth: (U, CANDIDATES) probability of label 1 given the history, the item and the levels shown.
    """

    history: np.ndarray
    item: np.ndarray
    levels: np.ndarray
    label: np.ndarray
    truth: np.ndarray


class World:
    """All items, and the process that makes histories and clicks.

    Args:
        items: number of items; ids are 1..items.
        seed: of everything; each block of items or users has a stream of its own, so that blocks can be made alone.
        tags: size of the tag vocabulary without padding.
        text_width, image_width: widths of the two views.
        history_median, history_max: of the log-normal history length (its mean is 4/3 of the median).
        leaky_levels: rows show the levels of the clicked item instead of their own.
    """

    def __init__(
        self,
        items: int,
        *,
        seed: int,
        tags: int,
        text_width: int,
        image_width: int,
        history_median: float,
        history_max: int,
        leaky_levels: bool,
        taste: Taste = Taste(),
    ) -> None:
        self.items, self.seed, self.taste = items, seed, taste
        self.history_median, self.history_max, self.leaky_levels = history_median, history_max, leaky_levels
        rng = self._rng("items")
        self.topics = max(4, items // ITEMS_PER_TOPIC)
        centres = _unit(rng.standard_normal((self.topics, LATENT)))
        topic = rng.integers(self.topics, size=items)
        own = _unit(rng.standard_normal((items, LATENT)))
        latent = _unit(np.sqrt(TOPIC_SHARE) * centres[topic] + np.sqrt(1 - TOPIC_SHARE) * own)
        self.latent = np.vstack([np.zeros(LATENT), latent]).astype(np.float32)
        self.topic = np.append(-1, topic)
        self.is_new = np.append(False, rng.random(items) < NEW_SHARE)
        log_popularity = POPULARITY_STD * rng.standard_normal(items)
        views = _deciles(log_popularity + 0.5 * rng.standard_normal(items))
        likes = _deciles(0.4 * log_popularity + rng.standard_normal(items))
        self.levels = np.vstack([[0, 0], np.stack([likes, views], axis=1)])
        self.tags = self._make_tags(rng, centres, tags)
        # Items of one topic lie side by side, so that a draw within a topic is a draw from an interval.
        self._by_topic = np.argsort(topic, kind="stable") + 1
        self._topic_start = np.searchsorted(topic[self._by_topic - 1], np.arange(self.topics + 1))
        popularity = np.append(0.0, np.exp(log_popularity))
        self._mass_all = _cumulate(popularity[self._by_topic])
        self._mass_old = _cumulate(np.where(self.is_new, 0.0, popularity)[self._by_topic])
        self._gate = _unit(rng.standard_normal(LATENT)).astype(np.float32) * np.sqrt(LATENT)
        self._text_map = self._make_view(rng, SHARED + TEXT_ONLY, text_width)
        self._image_map = self._make_view(rng, SHARED + IMAGE_ONLY, image_width)

    def _rng(self, *stream: str | int) -> np.random.Generator:
        words = [int.from_bytes(part.encode(), "little") if isinstance(part, str) else part for part in stream]
        return np.random.default_rng([self.seed, *words])

    def _make_tags(self, rng: np.random.Generator, centres: np.ndarray, tags: int) -> np.ndarray:
        """(items + 1, TAG_SLOTS): tags of the topic's genre and, rarely, any tag; 1 to TAG_SLOTS per item."""
        genres = max(1, tags // 8)
        genre = (centres @ rng.standard_normal((LATENT, genres))).argmax(axis=1)[self.topic[1:]]
        within = genre[:, None] * (tags // genres) + rng.integers(tags // genres, size=(self.items, TAG_SLOTS))
        stray = rng.random((self.items, TAG_SLOTS)) < 0.2
        drawn = np.where(stray, rng.integers(tags, size=within.shape), within) + 1
        count = rng.integers(1, TAG_SLOTS + 1, size=self.items)
        drawn[np.arange(TAG_SLOTS) < TAG_SLOTS - count[:, None]] = 0
        return np.vstack([np.zeros(TAG_SLOTS, np.int64), drawn])

    def _make_view(self, rng: np.random.Generator, informative: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        scale = np.r_[np.full(informative, np.sqrt(LATENT)), np.full(NUISANCE, NUISANCE_STD)]
        directions = rng.standard_normal((informative + NUISANCE, width)) / np.sqrt(width)
        return (directions * scale[:, None]).astype(np.float32), rng.standard_normal(width).astype(np.float32)

    def views(self, first: int, last: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the text and the image vectors of items first..last-1, (n, width) float32 each."""
        rng = self._rng("views", block)
        latent = self.latent[first:last]
        text = latent[:, : SHARED + TEXT_ONLY]
        image = np.hstack([latent[:, :SHARED], latent[:, SHARED + TEXT_ONLY :]])
        return (
            TEXT_NORM * self._view(rng, text, self._text_map),
            IMAGE_NORM * self._view(rng, image, self._image_map),
        )

    @staticmethod
    def _view(rng: np.random.Generator, content: np.ndarray, view: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        directions, offset = view
        nuisance = rng.standard_normal((len(content), NUISANCE), dtype=np.float32)
        rows = np.hstack([content, nuisance]) @ directions
        # Encoders are not linear; this one bends a little. Their rows have a common mean and nearly one length.
        rows = np.tanh(rows / 2) + 0.3 * offset / np.sqrt(len(offset))
        rows += VIEW_NOISE_STD / np.sqrt(len(offset)) * rng.standard_normal(rows.shape, dtype=np.float32)
        return rows / np.float32(np.sqrt((rows**2).sum(axis=1).mean()))

    def impressions(self, users: int, *, split: str, block: int) -> Impressions:
        """Make a block of users with their histories, candidates, clicks and true click probabilities.

        Args:
            users: number of users of the block.
            split: ``"train"`` draws no new items; other names do.
            block: number of the block within the split.
        """
        rng = self._rng(split, block)
        history = self._histories(rng, users)
        mass = self._mass_old if split == "train" else self._mass_all
        item = self._candidates(rng, history, CANDIDATES, mass, distinct=True)
        rivals = self._candidates(rng, history, RIVALS, mass)
        shown_or_not = np.hstack([item, rivals])
        odds = np.empty(shown_or_not.shape)
        # Users of like length together: most positions of a block of challenge histories are padding.
        for group in np.array_split(np.argsort((history > 0).sum(axis=1), kind="stable"), -(-users // GROUP)):
            odds[group] = np.exp(self._utility(history[group], shown_or_not[group]))
        own, rival = odds[:, :CANDIDATES], odds[:, CANDIDATES:]
        share = own / own.sum(axis=1, keepdims=True)
        clicked = (rng.random((users, 1)) > share.cumsum(axis=1)).sum(axis=1).clip(max=CANDIDATES - 1)
        label = (np.arange(CANDIDATES) == clicked[:, None]).astype(np.int64)
        levels = self.levels[item]
        shown = (
            np.repeat(levels[np.arange(users), clicked][:, None], CANDIDATES, axis=1) if self.leaky_levels else levels
        )
        truth = self._truth(rng, own, rival, item, rivals, shown)
        return Impressions(history, item, shown, label, truth)

    def _truth(
        self,
        rng: np.random.Generator,
        own: np.ndarray,
        rival: np.ndarray,
        item: np.ndarray,
        rivals: np.ndarray,
        shown: np.ndarray,
    ) -> np.ndarray:
        """E[label | row], over the competitors a row does not show.

        Competitors are independent draws of one proposal, so every choice of three of the ``RIVALS`` draws is a fair
        sample of them. When the rows show the clicked item's levels, a row with other levels than its own has lost,
        and one with its own competes only with "a rival of the same levels was clicked" (Bayes).
        """
        wins = np.zeros(own.shape)
        twin_wins = np.zeros(own.shape)
        own_levels = self.levels[item]
        if self.leaky_levels:
            is_twin = (self.levels[rivals][:, None] == own_levels[:, :, None]).all(axis=-1)  # (U, CANDIDATES, RIVALS)
            is_twin &= rivals[:, None] != item[:, :, None]
        for _ in range(TRIPLES):
            order = rng.permutation(RIVALS)[: RIVALS // 3 * 3].reshape(3, -1)
            total = own[:, :, None] + rival[:, order].sum(axis=1)[:, None]
            wins += (own[:, :, None] / total).mean(axis=-1) / TRIPLES
            if self.leaky_levels:
                twins = (rival[:, None, order] * is_twin[:, :, order]).sum(axis=2)
                twin_wins += (twins / total).mean(axis=-1) / TRIPLES
        return np.where((shown == own_levels).all(axis=-1), wins / (wins + twin_wins) if self.leaky_levels else wins, 0)

    def _utility(self, history: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(U, L) and (U, C) item ids -> (U, C) click logits without chance."""
        taste = self.taste
        width = int((history > 0).sum(axis=1).max())
        history = history[:, -width:]
        target = self.latent[item]
        match = target @ self.latent[history].transpose(0, 2, 1)  # (U, C, L); padding matches 0
        weight = (RECENCY ** np.arange(width)[::-1] * (history > 0)).astype(np.float32)
        recent = (match @ weight[:, :, None])[:, :, 0] / weight.sum(axis=1, keepdims=True)
        lasting = np.where(history[:, None] > 0, match, -1).max(axis=2) - STRANGER
        gate = 1 / (1 + np.exp(-taste.gate * (target @ self._gate)))
        likes, views = np.moveaxis((self.levels[item] - (LEVELS + 1) / 2) / ((LEVELS - 1) / 2), -1, 0)
        return (
            taste.recent * gate * recent
            + taste.lasting * (1 - gate) * lasting
            + taste.level_product * likes * views
            + taste.views_lasting * views * lasting
            + taste.likes_recent * likes * recent
        )

    def _histories(self, rng: np.random.Generator, users: int) -> np.ndarray:
        """(U, history_max) item ids; users walk between their interests, so the latest clicks lie close together."""
        sigma = np.sqrt(2 * np.log(4 / 3))
        length = np.rint(self.history_median * np.exp(sigma * rng.standard_normal(users))).clip(1, self.history_max)
        interests = self.topic[self._draw(rng.random((users, INTERESTS)), self._mass_old)]
        count = rng.integers(3, INTERESTS + 1, size=users)
        current = np.zeros(users, np.int64)
        history = np.zeros((users, self.history_max), np.int64)
        for step in range(self.history_max):
            current = np.where(rng.random(users) < SWITCH, rng.integers(count), current)
            topic = interests[np.arange(users), current]
            inside = self._draw(rng.random(users), self._mass_old, topic)
            anything = self._draw(rng.random(users), self._mass_old)
            history[:, step] = np.where(rng.random(users) < WANDER, anything, inside)
        history[np.arange(self.history_max) < self.history_max - length[:, None]] = 0
        return history

    def _candidates(
        self, rng: np.random.Generator, history: np.ndarray, count: int, mass: np.ndarray, distinct: bool = False
    ) -> np.ndarray:
        """(U, count) items that are not in the history, recalled by a history item's topic or by popularity."""
        users = len(history)
        length = (history > 0).sum(axis=1)
        # One number per user and item; membership in a sorted list is far cheaper than a look at every position.
        seen = np.unique((np.arange(users)[:, None] * (self.items + 1) + history)[history > 0])
        user = np.repeat(np.arange(users), count)
        item = np.zeros(users * count, np.int64)
        todo = np.arange(users * count)
        while len(todo):
            who = user[todo]
            cause = history[who, -1 - rng.integers(length[who])]
            recalled = self._draw(rng.random(len(todo)), mass, self.topic[cause])
            popular = self._draw(rng.random(len(todo)), mass)
            item[todo] = np.where(rng.random(len(todo)) < RECALLED, recalled, popular)
            key = who * (self.items + 1) + item[todo]
            bad = seen[np.searchsorted(seen, key).clip(max=len(seen) - 1)] == key
            if distinct:
                table = item.reshape(users, count)
                other = ~np.eye(count, dtype=bool)
                bad |= ((table[:, :, None] == table[:, None]) & other).any(axis=2).reshape(-1)[todo]
            todo = todo[bad]
        return item.reshape(users, count)

    def _draw(self, uniform: np.ndarray, mass: np.ndarray, topic: np.ndarray | None = None) -> np.ndarray:
        """Items in proportion to ``mass``, from all items or from one topic each."""
        if topic is None:
            low, high = mass[0], mass[-1]
        else:
            low, high = mass[self._topic_start[topic]], mass[self._topic_start[topic + 1]]
        place = np.searchsorted(mass, low + uniform * (high - low), side="right") - 1
        return self._by_topic[place.clip(max=self.items - 1)]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _cumulate(weights: np.ndarray) -> np.ndarray:
    return np.append(0.0, np.cumsum(weights))


def _deciles(values: np.ndarray) -> np.ndarray:
    """Rank -> level 1..LEVELS, equally many items each."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return rank * LEVELS // len(values) + 1
