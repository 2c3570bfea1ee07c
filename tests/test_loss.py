"""The loss: the same with either LM head, in whatever micro-batches, and summed exactly for validation."""

import math

import numpy as np
import pytest
import torch
from conftest import command, grpo_recipe, injected_trainer, metrics_of, pretrain_recipe, sft_recipe, tiny_config
from safetensors.torch import load_file

from pipeline.corpus.tokens import TokenShards
from pipeline.recipe.combinations import SAME_AT_RATIO_ONE
from pipeline.training.models import new_model
from pipeline.training.packing import PackedCollator, plan_rows
from pipeline.training.validation import bytes_per_token, validation_loss

LENGTHS = (5, 17, 9, 30)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory, tokenizer):
    """A StageTrainer on rows of unequal length, some labels masked."""
    from datasets import Dataset
    from trl import SFTConfig

    from pipeline.training.trainer import StageTrainer

    random = np.random.default_rng(0)
    rows = []
    for length in LENGTHS:
        ids = random.integers(10, len(tokenizer), length).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :]})
    args = SFTConfig(
        output_dir=str(tmp_path_factory.mktemp("trainer")),
        **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"},
    )
    torch.manual_seed(0)
    model = new_model(tiny_config(tie_word_embeddings=False), tokenizer)
    return StageTrainer(model=model, args=args, processing_class=tokenizer, train_dataset=Dataset.from_list(rows))


def padded(trainer) -> dict[str, torch.Tensor]:
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(LENGTHS))])
    assert batch["attention_mask"].min() == 0 and (batch["labels"] == -100).any()
    return dict(batch)


def packed(trainer) -> dict[str, torch.Tensor]:
    ids = [torch.tensor(trainer.train_dataset[i]["input_ids"]) for i in range(len(LENGTHS))]
    labels = [torch.cat((torch.tensor([-100]), row[1:])) for row in ids]
    positions = [torch.arange(len(row)) for row in ids]
    joined = (torch.cat(parts)[None] for parts in (ids, labels, positions))
    return dict(zip(("input_ids", "labels", "position_ids"), joined, strict=True))


def loss_and_gradients(compute, trainer, inputs, count):
    trainer.model.train()
    trainer.model.zero_grad()
    loss = compute(trainer, trainer.model, dict(inputs), num_items_in_batch=count)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in trainer.model.parameters()]


@pytest.mark.parametrize("batch", [padded, packed])
@pytest.mark.parametrize("count", [None, 100, torch.tensor(37)], ids=["own count", "int", "tensor"])
def test_the_dense_head_gives_the_loss_and_gradients_of_trls_fused_one(trainer, batch, count):
    from trl import SFTTrainer

    inputs = batch(trainer)
    assert trainer._dense_head_fits(inputs)
    loss, gradients = loss_and_gradients(type(trainer).compute_loss, trainer, inputs, count)
    expected_loss, expected = loss_and_gradients(SFTTrainer.compute_loss, trainer, inputs, count)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6) and loss > 0
    assert max(gradient.abs().max() for gradient in expected) > 1e-3
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_the_dense_head_counts_the_tokens_that_trls_counts_padding_left_out(trainer):
    from trl import SFTTrainer

    counts = []
    for compute in (type(trainer).compute_loss, SFTTrainer.compute_loss):
        before = trainer.state.num_input_tokens_seen
        compute(trainer, trainer.model.train(), padded(trainer))
        counts.append(trainer.state.num_input_tokens_seen - before)
    assert counts == [sum(LENGTHS)] * 2


def test_logits_too_large_to_build_go_to_trls_fused_head(trainer, monkeypatch):
    inputs = padded(trainer)
    fits = 4 * inputs["labels"].numel() * trainer.model.config.vocab_size
    monkeypatch.setattr("pipeline.training.trainer.DENSE_HEAD_BYTES", fits - 1)
    assert not trainer._dense_head_fits(inputs)
    before = trainer._metrics["train"].get("mean_token_accuracy", [])[:]
    trainer.compute_loss(trainer.model.train(), inputs)
    assert len(trainer._metrics["train"]["mean_token_accuracy"]) == len(before) + 1


def test_a_micro_batch_without_a_supervised_token_has_a_loss_of_zero_and_no_nan(trainer):
    inputs = padded(trainer)
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    loss, gradients = loss_and_gradients(type(trainer).compute_loss, trainer, inputs, None)
    assert loss == 0 and all((gradient == 0).all() for gradient in gradients)


# --- one optimizer step on a batch of 1 x 8 and of 8 x 1: SGD without clipping shows every factor that AdamW would hide

ONE_STEP = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9}
WHOLE = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
SINGLE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}


def outcome(stage, recipe) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Loss, gradient norm and weights after the run."""
    folder = recipe.with_suffix("")
    assert command(stage, "--config", recipe) == 0
    line = metrics_of(folder)[0]
    return line["loss"], line["grad_norm"], load_file(folder / "model.safetensors")


def assert_equal_outcomes(first, second):
    assert first[0] == pytest.approx(second[0], rel=1e-5, abs=1e-7)
    assert first[1] == pytest.approx(second[1], rel=1e-5) and first[1] > 1e-3
    for name, weights in first[2].items():
        torch.testing.assert_close(weights, second[2][name], atol=2e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_pretraining_learns_the_same_from_1x8_and_8x1(tmp_path, tiny_world, strategy):
    both = [
        outcome(
            "pretrain",
            pretrain_recipe(
                tmp_path / f"{i}.yaml", tiny_world, packing_strategy=strategy, max_length=57, **ONE_STEP, **batch
            ),
        )
        for i, batch in enumerate((WHOLE, SINGLE))
    ]
    assert_equal_outcomes(*both)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"packing": True}], ids=["padded", "packed"])
def test_fine_tuning_learns_the_same_from_1x8_and_8x1_rows_of_unequal_length(tmp_path, tiny_world, changes):
    both = [
        outcome("sft", sft_recipe(tmp_path / f"{i}.yaml", tiny_world, **ONE_STEP, **changes, **batch))
        for i, batch in enumerate((WHOLE, SINGLE))
    ]
    assert_equal_outcomes(*both)


def injected_grpo(tmp_path, world, monkeypatch, loss_type, batches=(WHOLE, SINGLE)):
    import trl

    loss = {"loss_type": loss_type, **({"epsilon_high": 5.0} if loss_type == "cispo" else {})}

    monkeypatch.chdir(world)
    monkeypatch.setattr(trl, "GRPOTrainer", injected_trainer())
    return [
        outcome(
            "grpo",
            grpo_recipe(tmp_path / f"{loss_type}{i}.yaml", world, temperature=1.0, **loss, **ONE_STEP, **batch),
        )
        for i, batch in enumerate(batches)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["dapo", "dr_grpo", "grpo", "cispo"])
def test_grpo_learns_the_same_from_1x8_and_8x1_injected_completions(tmp_path, tiny_world, monkeypatch, loss_type):
    assert_equal_outcomes(*injected_grpo(tmp_path, tiny_world, monkeypatch, loss_type))


@pytest.mark.slow
def test_bnpo_is_the_exception_its_normaliser_is_the_micro_batch_by_design(tmp_path, tiny_world, monkeypatch):
    whole, single = injected_grpo(tmp_path, tiny_world, monkeypatch, "bnpo")
    assert whole[1] != pytest.approx(single[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "plain"), SAME_AT_RATIO_ONE.items())
def test_a_variant_that_is_said_to_be_another_where_ratios_are_one_is(
    tmp_path, tiny_world, monkeypatch, variant, plain
):
    ((_, *found),) = injected_grpo(tmp_path, tiny_world, monkeypatch, variant, [WHOLE])
    ((_, *expected),) = injected_grpo(tmp_path, tiny_world, monkeypatch, plain, [WHOLE])
    assert_equal_outcomes((0, *found), (0, *expected))  # the gradients: the values of the losses differ by constants


# --- validation


def nats_by_hand(model, shards, rows, isolated) -> tuple[float, int, list[int]]:
    """Sum of -log p, count and ids of the predicted tokens, document piece by document piece (row by row if wrapped)."""
    nats, predicted = 0.0, []
    for row in range(len(rows)):
        pieces = range(rows.first[row], rows.first[row + 1])
        texts = [shards.stream(int(rows.begins[p]), int(rows.begins[p] + rows.lengths[p])) for p in pieces]
        for ids in texts if isolated else [np.concatenate(texts)]:
            ids = torch.from_numpy(ids.astype(np.int64))
            with torch.no_grad():
                log_probabilities = model(ids[None]).logits[0].double().log_softmax(-1)
            nats -= log_probabilities[torch.arange(len(ids) - 1), ids[1:]].sum().item()
            predicted += ids[1:].tolist()
    return nats, len(predicted), predicted


@pytest.mark.parametrize("strategy", ["bfd_split", "wrapped"])
def test_the_validation_loss_is_the_sum_by_hand_also_with_an_uneven_last_batch(tiny_world, tokenizer, strategy):
    torch.manual_seed(3)
    model = new_model(tiny_config(), tokenizer)
    shards = TokenShards(tiny_world / "tokenizer" / "tokens" / "validation", tokenizer)
    rows = plan_rows(shards.offsets, 48, strategy, keep_tail=True)
    read = [rows.read(shards, row, tokenizer.pad_token_id) for row in range(len(rows))]
    size = next(size for size in (3, 4, 5) if len(rows) % size)
    batches = [PackedCollator()(read[start : start + size]) for start in range(0, len(read), size)]
    found = validation_loss(model, batches, bytes_per_token(tokenizer))
    nats, count, predicted = nats_by_hand(model, shards, rows, isolated=strategy != "wrapped")
    assert found.nats == pytest.approx(nats, rel=1e-6)
    assert found.tokens == count
    assert found.bytes == sum(len(tokenizer.decode([token]).encode()) for token in predicted if token >= 4)
    assert found.metrics()["eval_loss"] == pytest.approx(nats / count)
    assert found.metrics()["eval_bits_per_byte"] == pytest.approx(nats / math.log(2) / found.bytes)


@pytest.mark.slow
def test_the_logged_validation_loss_is_that_of_the_published_model(tmp_path, tiny_world, tokenizer):
    from transformers import AutoModelForCausalLM

    recipe = pretrain_recipe(
        tmp_path / "run.yaml",
        tiny_world,
        **{"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 3},
    )
    assert command("pretrain", "--config", recipe) == 0
    logged = metrics_of(tmp_path / "run")[-1]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    shards = TokenShards(tiny_world / "tokenizer" / "tokens" / "validation", tokenizer)
    rows = plan_rows(shards.offsets, 64, "bfd_split", keep_tail=True)
    assert len(rows) % 3
    nats, count, predicted = nats_by_hand(model, shards, rows, isolated=True)
    assert logged["eval_loss"] == pytest.approx(nats / count, rel=1e-5)
    # Every document is one piece: all its text is predicted but for the bytes of its first token.
    unseen = sum(bytes_per_token(tokenizer)[shards.document(d)[0]] for d in range(shards.documents))
    assert rows.lengths.tolist().count(1) == 0 and len(rows.lengths) == shards.documents
    assert logged["eval_bits_per_byte"] == pytest.approx(nats / math.log(2) / (shards.bytes - unseen), rel=1e-5)
