from __future__ import annotations

import pytest
import torch

from compress.tasks.base import Accompanied, Comparable, Pictured, Teachable
from compress.tasks.cycle import Cycle, CycleWeights
from compress.tasks.image_pool import ImagePool
from compress.tasks.scenes import draw_days_and_nights, draw_scenes
from compress.tasks.unpaired_translation import UnpairedTranslation
from compress.train.extras import Extras
from compress.train.judge import judge
from compress.train.loop import Training, train_
from device_profiles.errors import BadInput
from tests.compress.tasks.files import Recolour, truncate, write_picture

SMALL = {"size": 32, "train_pictures": 32, "held_out_pictures": 8, "discriminator_width": 4}
SMALL |= {"inverse": "tests.compress.tasks.files:Recolour", "inverse_arguments": {"width": 8}}


def test_days_are_the_scenes_that_pairs_are_made_of_and_nights_are_dark():
    days, nights = draw_days_and_nights(4, size=32, seed=9)
    assert torch.equal(days, draw_scenes(4, size=32, seed=9).images)
    assert nights.float().mean() < 0.7 * days.float().mean()


def test_a_batch_pairs_nothing_and_the_held_out_truth_is_known():
    task = UnpairedTranslation(**SMALL)
    assert all(isinstance(task, each) for each in (Accompanied, Comparable, Pictured, Teachable))
    assert torch.equal(task.batch(3, 4).inputs, task.batch(3, 4).inputs)
    days, nights = draw_days_and_nights(8, size=32, seed=3)
    assert torch.equal(task.picture(task.held_out().inputs), days)
    assert torch.equal(task.picture(task.held_out().targets), nights)
    seen_by_day = {each.numpy().tobytes() for each in task._a}
    assert not seen_by_day & {each.numpy().tobytes() for each in days}
    assert not seen_by_day & {each.numpy().tobytes() for each in draw_days_and_nights(32, size=32, seed=2)[0]}
    back = UnpairedTranslation(**SMALL, direction="BtoA")
    assert torch.equal(back.held_out().inputs, task.held_out().targets)


def test_matched_colours_are_better_than_the_input_as_it_is():
    task = UnpairedTranslation(**SMALL)
    held_out = task.held_out()
    matched = task.quality(task.trivial(held_out.inputs), held_out.targets).mean()
    assert matched < 0.8 * task.quality(held_out.inputs, held_out.targets).mean()


def test_a_network_learns_towards_the_other_kind_and_resumes_with_its_companions(tmp_path):
    class Watched(UnpairedTranslation):
        def companions(self):
            self.made = super().companions()
            return self.made

    task = Watched(**SMALL)
    held_out = task.held_out()
    found = []
    for steps in ((30,), (17, 30)):
        torch.manual_seed(0)
        module = Recolour()
        before = judge(module, task, held_out).mean()
        for until in steps:
            _train_until(module, task, until, tmp_path / f"{len(steps)}.safetensors")
        found.append((module, task.made))
        assert judge(module, task, held_out).mean() < before - 3
    (one, made_one), (two, made_two) = found
    assert _same(one, two)
    assert all(_same(made_one.modules[name], made_two.modules[name]) for name in made_one.modules)
    assert all(torch.equal(value, made_two.state()[name]) for name, value in made_one.state().items())


def _train_until(module, task, until, path):
    """Train for 30 steps, or stop before the end as if killed."""
    done = []
    extras = Extras(after_step=lambda step, _: done.append(step), finished=lambda: bool(done) and done[-1] >= until)
    training = Training(steps=30, batch=4, learning_rate=1e-2, warm_up=1, precision="32-true")
    train_(module, task, training, label="x", checkpoint=path, extras=extras)


def _same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_the_loss_is_that_of_the_published_code():
    torch.manual_seed(0)
    task, network = UnpairedTranslation(**SMALL), Recolour()
    batch = task.batch(0, 2)
    cycle = Cycle(Recolour(), CycleWeights(), width=4)
    a, b = batch.inputs, batch.targets
    with torch.no_grad():
        made_b, made_a = network(a), cycle.inverse(b)
        told_b, told_a = (t(i[:, :0], i) for t, i in ((cycle.tells_b, made_b), (cycle.tells_a, made_a)))
        expected = ((told_b - 1) ** 2).mean() + ((told_a - 1) ** 2).mean()
        expected += 10 * ((cycle.inverse(made_b) - a).abs().mean() + (network(made_a) - b).abs().mean())
        expected += 5 * ((network(b) - b).abs().mean() + (cycle.inverse(a) - a).abs().mean())
    for tells in (cycle.tells_a, cycle.tells_b):
        tells.train()
    assert cycle.loss(network, batch, network(a)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_inverse_follows_the_networks_backward_pass_and_discriminators_only_their_own():
    torch.manual_seed(0)
    task, network = UnpairedTranslation(**SMALL), Recolour()
    cycle, batch = task.companions(), task.batch(0, 2)
    before = [parameter.clone() for parameter in cycle.inverse.parameters()]
    outputs = network(batch.inputs)
    (task.loss(outputs, batch.targets) + cycle.loss(network, batch, outputs)).backward()
    assert all(parameter.grad is not None for parameter in [*network.parameters(), *cycle.inverse.parameters()])
    assert all(parameter.grad is None for parameter in cycle.discriminating)
    cycle.step_(batch, outputs.detach())
    assert not any(torch.equal(old, new) for old, new in zip(before, cycle.inverse.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in cycle.inverse.parameters())
    assert all(parameter.grad is not None for parameter in cycle.discriminating)
    assert torch.equal(cycle.pool_b.state()["images"], outputs)  # what both discriminators saw went through their pools
    assert cycle.pool_a.state()["images"].shape == outputs.shape


def test_a_pool_fills_and_then_gives_older_images_half_of_the_time():
    pool = ImagePool(size=4, seed=0)
    images = torch.arange(200.0).reshape(200, 1, 1, 1)
    given = pool.exchange(images)
    assert torch.equal(given[:4], images[:4])
    older = (given != images).float()[4:].mean()
    assert 0.35 < older < 0.65
    assert (given <= images).all()
    copy = ImagePool(size=4, seed=7)
    copy.restore_(pool.state())
    assert torch.equal(copy.exchange(images), pool.exchange(images))
    assert torch.equal(ImagePool(size=0).exchange(images), images)
    assert ImagePool().state()["images"].numel() == 0


def write_kinds(folder):
    for name, count in (("trainA", 4), ("trainB", 3), ("testA", 5), ("testB", 3)):
        for number in range(count):
            write_picture(folder / name / f"{number}.jpg", 40 + number, 50, seed=number + 10 * ord(name[-1]))
    return folder


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_folders_of_two_kinds_are_read_and_judged_by_a_named_distance(tmp_path, direction):
    task = UnpairedTranslation(folder=write_kinds(tmp_path), direction=direction, **SMALL)
    batch = task.batch(2, 6)
    assert batch.inputs.shape == batch.targets.shape == (6, 3, 32, 32)
    assert all(f"train{direction[0]}" in name.split(" and ")[0] for name in batch.names)
    held_out = task.held_out()
    assert held_out.inputs.shape == held_out.targets.shape == (3, 3, 32, 32)
    assert task.metric.name == "Frechet distance on colours and gradients"
    assert task.quality(held_out.targets, held_out.targets).tolist() == pytest.approx([0], abs=1)
    assert task.quality(held_out.inputs, held_out.targets).item() > 10


def test_broken_images_missing_folders_and_wrong_settings_are_told_by_name(tmp_path):
    write_kinds(tmp_path)
    with pytest.raises(BadInput, match=r"unknown key 'task\.inverse_arguments\.depht'"):
        UnpairedTranslation(**SMALL | {"inverse": "unet-16", "inverse_arguments": {"depht": 3}})
    with pytest.raises(BadInput, match=r"task\.inverse\.name \(='nothing'\) is not bundled"):
        UnpairedTranslation(**SMALL | {"inverse": "nothing"})
    with pytest.raises(BadInput, match=r"there is no file .*weights"):
        UnpairedTranslation(folder=tmp_path, inception=tmp_path / "weights.pth", **SMALL)
    truncate(tmp_path / "trainB" / "1.jpg")
    with pytest.raises(BadInput, match=r"1\.jpg cannot be read"):
        UnpairedTranslation(folder=tmp_path, **SMALL)
    (tmp_path / "testA").rename(tmp_path / "elsewhere")
    (tmp_path / "trainB" / "1.jpg").unlink()
    with pytest.raises(BadInput, match="has no folder named testA"):
        UnpairedTranslation(folder=tmp_path, **SMALL)


def test_a_task_judged_by_a_distance_trains_and_its_network_has_one_number(tmp_path):
    task = UnpairedTranslation(folder=write_kinds(tmp_path), **SMALL)
    module = Recolour()
    phase = train_(module, task, Training(steps=2, batch=2, precision="32-true"), label="x")
    assert judge(module, task, task.held_out()).tolist() == pytest.approx([phase.quality[-1]])
