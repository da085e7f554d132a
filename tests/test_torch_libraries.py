"""What torch's own utilities and other libraries do to a recurrent module, done to an accelerated one."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastrnn import ops

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402

import fastrnn.torch as ours  # noqa: E402

KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
kinds = pytest.mark.parametrize("kind", list(KINDS))
T, N, I, H = 5, 3, 4, 6


@pytest.fixture(autouse=True)
def compiled(require: Callable[[bool, str], None]) -> None:
    backend, _ = ops.choose(None, None)
    require(ops.keeps(backend), "no backend with compiled kernels runs here")
    torch.manual_seed(0)


def pair(kind: str, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """A module of torch.nn, and ours with its weights."""
    module = KINDS[kind](*(sizes or (I, H)), **options, dtype=torch.float64)
    return module, ours.accelerate(copy.deepcopy(module))


def outputs(module: Any, x: Tensor) -> list[Tensor]:
    """y and its gradients with respect to the parameters, by whatever name they have by now."""
    y, _ = module(x)
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [y, *torch.autograd.grad((y * torch.linspace(0.3, 1.7, y.numel()).reshape(y.shape)).sum(), parameters)]


def assert_equal(got: list[Tensor], want: list[Tensor]) -> None:
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def runs_on_kernels(module: Any, x: Tensor) -> bool:
    """Whether the layer's own node of the graph is right behind y."""
    return module(x)[0].grad_fn.name() == "_LayerBackward"


# ---- torch's own


class Low(nn.Module):
    """A parametrization that adds a product of two thin matrices, as adapters of low rank do."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(2, weight.shape[1], dtype=weight.dtype) / 3)
        self.b = nn.Parameter(torch.ones(weight.shape[0], 2, dtype=weight.dtype) / 5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def dropped(module: Any) -> Any:
    """As AWD-LSTM's WeightDrop: the parameter gets another name, and each forward a plain tensor in its place."""
    raw = module.weight_hh_l0
    del module._parameters["weight_hh_l0"]
    module.register_parameter("weight_hh_l0_raw", raw)

    def forward(*given: Any) -> Any:
        module.weight_hh_l0 = torch.nn.functional.dropout(module.weight_hh_l0_raw, 0.5, True)
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        return type(module).forward(module, *given)

    module.forward = forward
    return module


def changes() -> dict[str, Callable[[Any], Any]]:
    """What is done to a module by name."""

    def pruned(module: Any) -> Any:
        return prune.l1_unstructured(module, "weight_ih_l0", amount=0.4)

    def removed(module: Any) -> Any:
        return prune.remove(pruned(module), "weight_ih_l0")

    def old_weight_norm(module: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.utils.weight_norm(module, "weight_hh_l0")

    def low_rank(module: Any) -> Any:
        parametrize.register_parametrization(module, "weight_ih_l0", Low(module.weight_ih_l0))
        return module

    return {
        "weight_norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
        "weight_norm of old": old_weight_norm,
        "spectral_norm": lambda m: parametrizations.spectral_norm(m, "weight_hh_l0"),
        "orthogonal": lambda m: parametrizations.orthogonal(m, "weight_ih_l0"),
        "pruned": pruned,
        "pruned for good": removed,
        "an adapter of low rank": low_rank,
        "WeightDrop": dropped,
        "share_memory": lambda m: m.share_memory(),
    }


@kinds
@pytest.mark.parametrize("change", list(changes()))
def test_what_torch_does_to_weights(kind: str, change: str) -> None:
    x, found = torch.randn(T, N, I, dtype=torch.float64), []
    for module in pair(kind):
        torch.manual_seed(1)
        changed = changes()[change](module)
        torch.manual_seed(2)
        found.append([*outputs(changed, x), *outputs(changed, 2 * x)])
        if isinstance(module, ours.LSTM | ours.GRU | ours.RNN):
            assert runs_on_kernels(changed, x)
    assert_equal(found[1], found[0])


@kinds
def test_averages_of_models(kind: str) -> None:
    averages = []
    for module in pair(kind):
        average = torch.optim.swa_utils.AveragedModel(nn.ModuleDict({"rnn": module}))
        moving = torch.optim.swa_utils.AveragedModel(
            nn.ModuleDict({"rnn": module}), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        for factor in (1.0, 1.5, 0.7):
            with torch.no_grad():
                for p in module.parameters():
                    p.mul_(factor)
            average.update_parameters(nn.ModuleDict({"rnn": module}))
            moving.update_parameters(nn.ModuleDict({"rnn": module}))
        averages.append([average.module["rnn"], moving.module["rnn"]])
    x = torch.randn(T, N, I, dtype=torch.float64)
    for want, got in zip(*averages, strict=True):
        assert type(got) is getattr(ours, KINDS[kind].__name__)
        assert_equal(outputs(got, x), outputs(want, x))


def test_shards_of_fsdp2(tmp_path: Any) -> None:
    """One process of gloo: parameters are DTensors between forward and backward, and plain ones within."""
    from torch.distributed.fsdp import fully_shard

    model = ours.accelerate(Classifier())
    plain = copy.deepcopy(model)
    x = torch.randn(T, N, I)
    with contextlib.ExitStack() as stack:
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        stack.callback(torch.distributed.destroy_process_group)
        sharded = fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        assert isinstance(sharded.rnn, ours.LSTM)
        for module in (sharded, plain):
            for _ in range(2):
                module(x).sum().backward()
        gradients = [p.grad.full_tensor() for p in sharded.parameters()]
    torch.testing.assert_close(gradients, [p.grad for p in plain.parameters()])


# ---- other libraries


class Classifier(nn.Module):
    """The last output of a recurrent module, through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(I, H, batch_first=True)
        self.out = nn.Linear(H, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


def test_skorch_fits_it() -> None:
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    x, labels = np.random.default_rng(0).standard_normal((20, T, I)).astype("f"), np.arange(20) % 2
    probabilities = []
    for accelerated in (False, True):
        torch.manual_seed(0)
        model = Classifier()
        if accelerated:
            ours.accelerate(model)
        net = skorch.NeuralNetClassifier(
            model, criterion=nn.CrossEntropyLoss, max_epochs=3, lr=0.1, train_split=None, verbose=0
        )
        probabilities.append(net.fit(x, labels).predict_proba(x))
        assert isinstance(net.module_.rnn, ours.LSTM) == accelerated
    np.testing.assert_allclose(probabilities[1], probabilities[0], atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of what it finds on a machine
def test_lightning_trains_it(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    environments = pytest.importorskip("lightning.fabric.plugins.environments")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = ours.accelerate(Classifier())

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, labels = batch
            return nn.functional.cross_entropy(self.model(x), labels)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(torch.randn(12, T, I), torch.arange(12) % 2)
    module, trained = Module(), []
    initial = copy.deepcopy(module.state_dict())
    for restore in (False, True):
        module.load_state_dict(initial)
        if restore:
            ours.restore(module)
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=tmp_path, plugins=[environments.LightningEnvironment()],
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=4))
        trained.append(copy.deepcopy(module.state_dict()))
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_recurrent_policies_of_stable_baselines() -> None:
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed")
    model = contrib.RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu"
    )
    observation = np.zeros((1, 4), "float32")
    want = model.predict(observation, deterministic=True)
    ours.accelerate(model.policy)
    assert [each.on_kernels for each in ours.report(model.policy)] == [True, True]
    got = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(got[1][0], want[1][0], atol=1e-5)
    model.learn(32)
    assert model.num_timesteps == 32


@pytest.mark.filterwarnings("ignore")
def test_recurrent_networks_of_pytorch_forecasting() -> None:
    """They subclass torch's: named, they run on the kernels, with lengths and all."""
    rnn = pytest.importorskip("pytorch_forecasting.models.nn", reason="pytorch-forecasting is not installed")
    found = []
    for accelerated in (False, True):
        torch.manual_seed(0)
        module = rnn.LSTM(I, H, batch_first=True)
        if accelerated:
            ours.accelerate(module, subclasses=["LSTM"])
            assert isinstance(module, ours.LSTM)
        found.append(module(torch.ones(N, T, I), lengths=torch.tensor([5, 0, 3]), enforce_sorted=False))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("late", [False, True], ids=["", "late"])
def test_adapters_of_peft(late: bool) -> None:
    """LoRA of an input weight, which peft makes a parametrization of in each call, and of a layer beside."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=2, target_modules=["out"], target_parameters=["rnn.weight_ih_l0"])
    x, found = torch.randn(N, T, I), []
    for accelerated in (False, True):
        torch.manual_seed(1)
        model = Classifier()
        if accelerated and not late:
            ours.accelerate(model)
        model = peft.get_peft_model(model, config)
        if accelerated and late:
            ours.accelerate(model)
        assert [each.on_kernels for each in ours.report(model)] == [accelerated]
        adapters = [p for p in model.parameters() if p.requires_grad]
        assert len(adapters) == 4
        for adapter in adapters:
            nn.init.normal_(adapter)
        scores = model(x)
        gradients = torch.autograd.grad(scores.square().sum(), adapters)
        merged = model.merge_and_unload()
        assert isinstance(merged.rnn, ours.LSTM) == accelerated
        found.append([scores, *gradients, merged(x)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1][-1], found[1][0], rtol=1e-4, atol=1e-5)
