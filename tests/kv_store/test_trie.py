"""The trie against brute force, in any order of arrival; what prompts share; what eviction prefers."""

import numpy as np
import pytest
from rdcodec.codecs.kv_store.eviction import (
    HORIZON_MIN_S,
    RecomputeCost,
    ReuseModel,
    bucket_end,
    bucket_of,
    recency,
    victims,
    worth,
)
from rdcodec.codecs.kv_store.trie import ROOT_ID, Node, Trie, common_prefix, token_key

BLOCK = 4


def blocks_of(prompt: np.ndarray) -> list[tuple[bytes, bytes, np.ndarray, int]]:
    """Id, parent, tokens and start of a prompt's blocks; here the id is the text that leads to the block's end."""
    out, parent = [], ROOT_ID
    for start in range(0, len(prompt), BLOCK):
        block = prompt[: start + BLOCK].tobytes()
        out.append((block, parent, prompt[start : start + BLOCK], start))
        parent = block
    return out


def trie_of(prompts: list[np.ndarray], rng: np.random.Generator | None = None) -> Trie:
    lines = {line[0]: line for prompt in prompts for line in blocks_of(prompt)}
    order = list(lines.values())
    if rng:
        rng.shuffle(order)  # type: ignore[arg-type]
    trie = Trie()
    for block, parent, tokens, start in order:
        trie.add(Node(id=block, parent_id=parent, key=token_key(tokens), start=start, size_bytes=10))
    return trie


def random_prompts(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [rng.integers(0, 2, rng.integers(1, 14)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_match_finds_the_longest_prefix_whatever_the_order_of_arrival(seed):
    rng = np.random.default_rng(seed)
    prompts = random_prompts(rng, 12)
    trie = trie_of(prompts, rng)
    assert not trie.orphans()
    for query in random_prompts(rng, 40):
        match = trie.match(query)
        assert match.tokens == max(common_prefix(query, prompt) for prompt in prompts)
        found = np.concatenate([*(node.tokens for node in match.path), np.zeros(0, np.int64)])
        if match.tail is not None:
            found = np.concatenate([found, match.tail.tokens[: match.tail_tokens]])
        assert np.array_equal(found, query[: match.tokens])


def test_a_block_without_its_parent_is_out_of_reach_until_the_parent_comes_back():
    prompt = np.arange(10)
    trie = trie_of([prompt])
    middle = trie.match(prompt).path[1]
    trie.remove(middle)
    assert trie.match(prompt).tokens == 4
    assert [node.start for node in trie.orphans()] == [8]
    trie.add(middle)
    assert trie.match(prompt).tokens == 10
    assert not trie.orphans()


def test_a_block_whose_header_gives_another_position_is_not_attached():
    trie = trie_of([np.arange(4)])
    first = next(iter(trie.nodes.values()))
    trie.add(Node(id=b"liar", parent_id=first.id, key=token_key(np.arange(4, 8)), start=8))
    assert trie.match(np.arange(12)).tokens == 4


def test_tails_that_a_sibling_outgrew_are_contained():
    trie = trie_of([np.arange(6), np.arange(7)])
    tails = sorted((node for node in trie.leaves()), key=lambda node: node.end)
    assert [trie.contained(tail) for tail in tails] == [True, False]


@pytest.mark.parametrize("seed", range(5))
def test_prompts_through_a_block_are_those_that_begin_with_it(seed):
    rng = np.random.default_rng(seed)
    texts = {prompt.tobytes() for prompt in random_prompts(rng, 30)}
    prompts = [text for text in texts if not any(other != text and other.startswith(text) for other in texts)]
    trie = trie_of([np.frombuffer(text, np.int64) for text in texts], rng)
    through = trie.prompts_through()
    assert max(through.values()) > 1 and sum(through[leaf.id] for leaf in trie.leaves()) == len(prompts)
    for node in trie.nodes.values():
        if not trie.contained(node):
            assert through[node.id] == sum(text.startswith(node.id) for text in prompts)


# ---- eviction ----


def test_buckets_cover_all_ages_without_gaps():
    ages = np.concatenate([[0], np.geomspace(1e-3, 1e12, 500)])
    buckets = [bucket_of(age) for age in ages]
    assert buckets == sorted(buckets) and buckets[0] == 0 and buckets[-1] == 63
    for bucket in range(62):
        assert bucket_of(bucket_end(bucket)) == bucket + 1
        assert bucket_of(bucket_end(bucket) * (1 - 1e-6)) == bucket


def test_recompute_cost_is_the_sum_over_tokens():
    cost = RecomputeCost(crossover_tokens=100)
    assert cost.of(7, 5) == pytest.approx(sum(1 + t / 100 for t in range(7, 12)))


def test_victims_are_leaves_first_and_orphans_before_all():
    trie = trie_of([np.arange(12), np.array([0, 1, 2, 3, 9])])
    lost = trie_of([np.arange(50, 60)])
    for node in lost.nodes.values():
        if node.start:
            trie.add(Node(id=node.id, parent_id=node.parent_id, key=node.key, start=node.start, size_bytes=10))
    dropped = []
    for node in victims(trie, 10**9, recency):
        assert not len(node.children)
        dropped.append(node.start)
        trie.remove(node)
    assert dropped[:2] == [8, 4] and dropped[-1] == 0 and not trie.nodes
    assert len(dropped) == 6


def test_victims_come_by_value_then_age_then_distance_from_the_root():
    trie = trie_of([np.array([1] * 4), np.array([2] * 4), np.array([3] * 4), np.array([4] * 8)])
    one, two, three = (trie.match(np.array([i] * 4)).path[0] for i in (1, 2, 3))
    deep = trie.match(np.array([4] * 8)).path[1]
    worths = {one.id: 2.0, two.id: 1.0, three.id: 1.0, deep.id: 1.0, deep.parent_id: 3.0}
    one.last_used, two.last_used, three.last_used, deep.last_used = 0, 9, 5, 9
    dropped = [node.id for node in _drop(trie, victims(trie, 10**9, lambda node: worths[node.id]))]
    assert dropped == [three.id, deep.id, two.id, one.id, deep.parent_id]


def test_worth_grows_with_what_a_block_costs_to_recompute():
    trie = trie_of([np.array([1] * 8)])
    first, second = trie.match(np.array([1] * 8)).path
    value, cost = worth(trie, ReuseModel(BLOCK), 10, RecomputeCost(2)), RecomputeCost(2)
    assert value(second) / value(first) == pytest.approx(cost.of(4, 4) / cost.of(0, 4)) and cost.of(4, 4) > cost.of(0, 4)


def test_a_tail_that_a_sibling_contains_is_worth_nothing():
    trie = trie_of([np.arange(6), np.arange(7)])
    short, long = sorted(trie.leaves(), key=lambda node: node.end)
    value = worth(trie, ReuseModel(BLOCK), 10)
    assert value(short) == 0 < value(long)


def test_the_horizon_is_the_median_age_and_values_follow_new_counts():
    trie = trie_of([np.array([i] * 4) for i in range(3)])
    nodes = list(trie.nodes.values())
    for node, last_used in zip(nodes, (0.0, 70.0, 90.0), strict=True):
        node.last_used = node.accounted = last_used
    reuse = ReuseModel(BLOCK)
    assert reuse.prepare(nodes, 100.0) == 30 and ReuseModel(BLOCK).prepare([], 100.0) == HORIZON_MIN_S
    before = reuse.probability(nodes[0], 100.0, 30.0)
    reuse.counts.hits[0] += 100
    reuse.prepare(nodes, 100.0)
    assert reuse.probability(nodes[0], 100.0, 30.0) > 2 * before


def test_a_hit_counts_the_time_before_it():
    node = Node(id=b"x", parent_id=ROOT_ID, key=token_key(np.arange(BLOCK)), start=0, size_bytes=10)
    reuse = ReuseModel(BLOCK)
    reuse.hit(node, 5.0)
    assert reuse.counts.exposure_s.sum() == pytest.approx(5) and reuse.counts.hits[0, bucket_of(5.0)] == 1
    assert np.array_equal(reuse.counts.hits, reuse.gained.hits)
    node.hits, node.last_used = 2, 5.0
    reuse.hit(node, 6.0)
    assert reuse.counts.hits[2, bucket_of(1.0)] == 1, "each number of hits is a class of its own"
    assert reuse.counts.exposure_s[2].sum() == pytest.approx(1), "from the last use on"


def test_victims_stop_when_enough_is_dropped():
    trie = trie_of([np.arange(40)])
    assert len(list(_drop(trie, victims(trie, 25, recency)))) == 3
    assert len(list(_drop(trie, victims(trie, 20, recency)))) == 2, "not one block more than it takes"
    assert not list(victims(trie, 0, recency))
    trie.remove(next(node for node in trie.nodes.values() if node.parent is trie.root))  # now nobody can reach the rest
    assert len(trie.nodes) == 4 and len(list(_drop(trie, victims(trie, 20, recency)))) == 2


def _drop(trie, nodes):
    for node in nodes:
        trie.remove(node)
        yield node


def test_a_class_that_is_hit_again_and_again_outlives_recent_blocks_that_never_are():
    trie = trie_of([np.array([1, 1, 1, 1]), np.array([2, 2, 2, 2])])
    often, never = trie.match(np.array([1] * 4)).path[0], trie.match(np.array([2] * 4)).path[0]
    reuse = ReuseModel(BLOCK)
    for now in range(100, 2000, 100):
        reuse.hit(often, now)
        often.hits, often.last_used = often.hits + 1, now
        reuse.survived(never, now)
    never.last_used = 1990
    value = worth(trie, reuse, 2000)
    assert value(often) > value(never)
    assert recency(often) < recency(never)


def test_before_any_count_the_mass_decides_and_bytes_and_position_weigh():
    trie = trie_of([np.array([i] * 4) for i in range(3)])
    likely, unlikely, unknown = (trie.match(np.array([i] * 4)).path[0] for i in range(3))
    likely.edge_bits, unlikely.edge_bits = 2.0, 40.0
    value = worth(trie, ReuseModel(BLOCK), 10)
    assert value(likely) > value(unknown) > value(unlikely)
    before = value(likely)
    likely.size_bytes *= 2
    assert value(likely) == pytest.approx(before / 2)


def test_probability_follows_the_counted_rate():
    node = Node(id=b"x", parent_id=ROOT_ID, key=token_key(np.arange(BLOCK)), start=0, size_bytes=10)
    reuse = ReuseModel(BLOCK)
    reuse.counts.hits[0] = 200.0
    reuse.counts.exposure_s[0] = 20_000.0
    assert reuse.probability(node, 0.0, 10.0) == pytest.approx(1 - np.exp(-0.1), rel=0.02)
    tail = Node(id=b"y", parent_id=ROOT_ID, key=token_key(np.arange(BLOCK - 1)), start=0, size_bytes=10)
    assert reuse.probability(tail, 0.0, 10.0) < 0.01


def test_exposure_is_counted_once_and_split_over_buckets():
    node = Node(id=b"x", parent_id=ROOT_ID, key=token_key(np.arange(BLOCK)), start=0, size_bytes=10)
    reuse = ReuseModel(BLOCK)
    for now in (0.3, 5.0, 5.0, 17.0):
        reuse.survived(node, now)
    assert reuse.counts.exposure_s.sum() == pytest.approx(17.0)
    assert reuse.counts.exposure_s[0, bucket_of(16.9)] == pytest.approx(17 - bucket_end(bucket_of(16.9) - 1))
    assert np.array_equal(reuse.counts.exposure_s, reuse.gained.exposure_s)
