"""Complete runs of the experiment `images` with curves of one's choosing."""

from linear_backprop_lab.records import Run


def image_config(rule, *, learning_rate=0.01, batch_norm=True, data="cifar10"):
    return {
        "experiment": "images",
        "data": data,
        "train_images": 5000,
        "test_images": 1000,
        "model": {"name": "vgg19", "batch_norm": batch_norm, "classes": 10},
        "rule": rule,
        "recipe": {"epochs": 3, "batch_size": 128, "learning_rate": learning_rate},
    }


def image_run(root, rule, curve, **settings):
    """A run whose epochs are the (training loss, test accuracy) of `curve`; no loss is divergence."""
    run = Run(root, image_config(rule, **settings))
    run.start()
    for epoch, (loss, accuracy) in enumerate(curve, start=1):
        run.log(epoch=epoch, train_loss=loss, train_accuracy=0.1, test_loss=loss, test_accuracy=accuracy, seconds=1)
    run.close(
        source="made up",
        status="diverged" if curve[-1][0] is None else "finished",
        epochs=len(curve),
        test_accuracy=curve[-1][1],
        best_test_accuracy=max(accuracy for _, accuracy in curve),
        seconds=len(curve),
    )
    return run
