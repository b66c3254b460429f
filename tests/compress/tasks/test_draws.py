from __future__ import annotations

import torch

from compress.tasks.draws import ORIENTATIONS, draw, orient, shift_and_flip, shuffled, step_generator


def test_a_step_draws_the_same_again_and_other_steps_and_seeds_draw_otherwise():
    drawn = [draw(1 << 30, step_generator(seed, step)) for seed, step in [(0, 5), (0, 5), (0, 6), (1, 5), (0, -5)]]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4


def test_a_shuffle_is_a_permutation_and_its_beginning_is_the_smaller_one():
    assert sorted(shuffled(20)) == list(range(20))
    assert shuffled(20, 5) == shuffled(20)[:5]
    assert shuffled(20) != list(range(20))


def test_the_eight_orientations_of_a_square_all_differ():
    square = torch.arange(9).reshape(1, 3, 3)
    assert len({tuple(orient(square, number).flatten().tolist()) for number in range(ORIENTATIONS)}) == ORIENTATIONS
    assert torch.equal(orient(square, 0), square)


def test_shifted_and_mirrored_pictures_are_crops_of_the_padded_one():
    picture = torch.arange(1, 37, dtype=torch.uint8).reshape(1, 6, 6)
    padded = torch.zeros(1, 10, 10, dtype=torch.uint8)
    padded[:, 2:8, 2:8] = picture
    crops = [padded[:, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
    allowed = {crop.numpy().tobytes() for crop in crops} | {crop.flip(2).numpy().tobytes() for crop in crops}
    found = shift_and_flip(picture.expand(200, -1, -1, -1), 2, step_generator(0, 0))
    seen = {each.numpy().tobytes() for each in found}
    assert seen <= allowed
    assert len(seen) > 40  # of 50
