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


def unfinished(run):
    """The run without its closing record, as if it went on."""
    for name in ("record.json", "SHA256SUMS"):
        (run.folder / name).unlink()
    return run


def sweep_run(
    root,
    rule,
    accuracies,
    *,
    experiment="vgg19",
    activation="Tanh",
    batch_norm=True,
    learning_rate=0.01,
    penalty=0.001,
    seed=0,
    epochs=None,
    held_out=None,
    losses=None,
    norms=(1.0, 1.0),
    train_images=2000,
    initialization="he",
    augment=True,
    width=0.5,
):
    """A complete run of a sweep with the test accuracies of `accuracies`, an epoch each.

    Its Precision@5 error is half of what top-1 has wrong; `norms` are Backprop's gradient at the lowest and at the
    highest weight, Linear Backprop's are 1 everywhere.
    """
    vgg19 = {"batch_norm": batch_norm, "width": width, "initialization": initialization}
    network = {"inflate": 1} if experiment == "bnn" else vgg19
    recipe = {"batch_size": 128, "learning_rate": learning_rate, "weight_decay": penalty, "seed": seed}
    recipe |= {"precision": "float32", "augment": augment}
    config = {
        "experiment": experiment,
        "data": "cifar10",
        "train_images": train_images,
        "held_out_images": 100,
        "test_images": 1000,
        "model": {"name": "made-up", "activation": activation, "classes": 10, **network},
        "rule": rule,
        "recipe": {**recipe, "epochs": epochs or len(accuracies)},
    }
    run = Run(root, config)
    run.start()
    losses = losses or [2.0] * len(accuracies)
    for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), start=1):
        chosen_on = (held_out or accuracies)[epoch - 1]
        run.log(
            epoch=epoch,
            train_loss=loss,
            test_loss=loss,
            test_accuracy=accuracy,
            test_top5_error=(1 - accuracy) / 2,
            held_out_accuracy=chosen_on,
            held_out_top5_error=(1 - chosen_on) / 2,
            saturation=[0.25, 0.5],
            gradient_norm_backprop=list(norms),
            gradient_norm_linear=[1.0, 1.0],
            cosine=0.5,
            seconds=1,
        )
    status = "diverged" if losses[-1] is None else "finished"
    run.close(source="made up", status=status, epochs=len(accuracies), seconds=len(accuracies))
    return run
