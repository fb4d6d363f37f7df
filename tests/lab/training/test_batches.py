import numpy as np
import torch

from linear_backprop_lab.training._batches import Normalizer, crop_and_flip, draw_crops


def test_normalizer_uses_the_statistics_of_the_training_images():
    generator = np.random.default_rng(0)
    train = generator.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    test = generator.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    mean = train.mean(axis=(0, 2, 3), keepdims=True)
    deviation = train.std(axis=(0, 2, 3), ddof=1, keepdims=True)
    result = Normalizer(torch.from_numpy(train))(torch.from_numpy(test))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), (test - mean) / deviation, rtol=1e-5, atol=1e-6)


def test_a_constant_channel_does_not_divide_by_zero():
    images = torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)
    assert not Normalizer(images)(images).any()


def test_every_crop_is_one_of_those_there_are_and_all_occur():
    torch.manual_seed(0)
    image = torch.randint(1, 256, (1, 3, 6, 6), dtype=torch.uint8)
    padded = np.pad(image[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    crops = {
        padded[:, top : top + 6, left : left + 6][:, :, ::step].tobytes(): (top, left, step)
        for top in range(3)
        for left in range(3)
        for step in (1, -1)
    }
    augmented = crop_and_flip(image.expand(600, -1, -1, -1), draw_crops(600, padding=1), padding=1)
    assert augmented.dtype == torch.uint8
    seen = [crops[crop.numpy().tobytes()] for crop in augmented]
    assert set(seen) == set(crops.values())
    mirrored = sum(step == -1 for _, _, step in seen)
    assert abs(mirrored - 300) < 5 * (600 / 4) ** 0.5


def test_images_keep_their_places():
    torch.manual_seed(0)
    images = torch.arange(1, 41, dtype=torch.uint8).view(40, 1, 1, 1).expand(-1, 3, 8, 8)
    augmented = crop_and_flip(images, draw_crops(40))
    for number, image in enumerate(augmented, start=1):
        assert set(image.unique().tolist()) <= {0, number}
        assert (image == number).sum() >= 3 * 16
