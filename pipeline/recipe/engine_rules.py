"""What TRL's and transformers' dataclasses leave unsaid about their keys.

Their parser checks types and choices on the command line only and ranges nowhere: `packing_strategy: nonsense` and
`per_device_train_batch_size: 2.5` in a YAML file pass it. Every table here was compared with TRL 1.16.0 and
transformers 5.17.0; a test compares it again with whatever is installed.
"""

from __future__ import annotations

from typing import Any

from pipeline.recipe.values import Range

AT_LEAST_0 = Range(0)
AT_LEAST_1 = Range(1)
POSITIVE = Range(0, open_low=True)
SHARE = Range(0, 1)

RANGES: dict[str, Range] = {
    # batches, steps and length
    "per_device_train_batch_size": AT_LEAST_1,
    "per_device_eval_batch_size": AT_LEAST_1,
    "gradient_accumulation_steps": AT_LEAST_1,
    "num_train_epochs": POSITIVE,
    "max_steps": Range(1, also=(-1,)),
    "logging_steps": AT_LEAST_0,  # below 1 a share of all steps, as in the next three
    "eval_steps": AT_LEAST_0,
    "save_steps": AT_LEAST_0,
    "warmup_steps": AT_LEAST_0,
    "eval_delay": AT_LEAST_0,
    "save_total_limit": AT_LEAST_1,
    "max_length": AT_LEAST_1,
    "seed": Range(0, 2**32 - 1),  # numpy's limits
    "data_seed": Range(0, 2**32 - 1),
    "dataset_num_proc": AT_LEAST_1,
    "dataloader_num_workers": AT_LEAST_0,
    "dataloader_prefetch_factor": AT_LEAST_1,
    "test_split_size": POSITIVE,  # a share below 1, otherwise a number of rows
    # optimiser
    "learning_rate": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
    "adam_beta1": Range(0, 1, open_high=True),
    "adam_beta2": Range(0, 1, open_high=True),
    "adam_epsilon": AT_LEAST_0,
    "max_grad_norm": AT_LEAST_0,
    "label_smoothing_factor": Range(0, 1, open_high=True),
    "neftune_noise_alpha": AT_LEAST_0,
    "router_aux_loss_coef": AT_LEAST_0,
    # adapters
    "lora_r": AT_LEAST_1,
    "lora_alpha": AT_LEAST_1,
    "lora_dropout": Range(0, 1, open_high=True),
    # GRPO
    "num_generations": Range(2),  # an advantage compares at least two completions
    "num_generations_eval": AT_LEAST_1,
    "max_completion_length": AT_LEAST_1,
    "generation_batch_size": AT_LEAST_1,
    "steps_per_generation": AT_LEAST_1,
    "num_iterations": AT_LEAST_1,
    "temperature": POSITIVE,
    "top_p": Range(0, 1, open_low=True),
    "top_k": Range(0, also=(-1,)),
    "min_p": SHARE,
    "repetition_penalty": POSITIVE,
    "beta": AT_LEAST_0,
    "epsilon": AT_LEAST_0,
    "epsilon_high": AT_LEAST_0,
    "delta": POSITIVE,
    "sapo_temperature_neg": POSITIVE,
    "sapo_temperature_pos": POSITIVE,
    "ref_model_mixup_alpha": SHARE,
    "ref_model_sync_steps": AT_LEAST_1,
    "top_entropy_quantile": SHARE,
    # RLOO, reward models, DPO and KTO
    "center_rewards_coefficient": AT_LEAST_0,
    "precompute_ref_batch_size": AT_LEAST_1,
    "label_smoothing": Range(0, 1, open_high=True),
    "ld_alpha": SHARE,
    "desirable_weight": AT_LEAST_0,
    "undesirable_weight": AT_LEAST_0,
    # vLLM
    "vllm_gpu_memory_utilization": Range(0, 1, open_low=True),
    "vllm_tensor_parallel_size": AT_LEAST_1,
    "vllm_max_model_length": AT_LEAST_1,
    "vllm_server_port": Range(1, 65535),
    "vllm_group_port": Range(1, 65535),
    "vllm_server_timeout": AT_LEAST_0,
}

CHOICES: dict[str, dict[str, tuple[Any, ...]]] = {
    "GRPOConfig": {
        "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"),
        "scale_rewards": ("group", "batch", "none", True, False),
        "importance_sampling_level": ("token", "sequence"),
        "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
        "vllm_mode": ("colocate", "server"),
        "vllm_model_impl": ("vllm", "transformers"),
        "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    },
    "ModelConfig": {
        "lora_task_type": ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"),
    },
    "TrainingArguments": {"include_num_input_tokens_seen": (True, False, "all", "non_padding", "no")},
}

ANNOTATIONS: dict[str, Any] = {
    # Wider than their annotation: the trainers take these from YAML too
    "scale_rewards": str | bool,  # GRPOConfig turns true and false of earlier versions into group and none
    "fsdp": str | bool | None,
}

RENAMED: dict[str, str] = {
    # transformers
    "evaluation_strategy": "is now called eval_strategy",
    "no_cuda": "is now called use_cpu",
    "use_mps_device": "was removed: an Apple GPU is used where there is one",
    "overwrite_output_dir": "was removed: pass --overwrite on the command line, which moves the old directory aside",
    "logging_dir": "was removed: set TENSORBOARD_LOGGING_DIR, for example under `env:`",
    "warmup_ratio": "was removed: warmup_steps takes a share of all steps when it is below 1",
    "group_by_length": "was removed: write train_sampling_strategy: group_by_length",
    "per_gpu_train_batch_size": "is now called per_device_train_batch_size",
    "per_gpu_eval_batch_size": "is now called per_device_eval_batch_size",
    "adafactor": "was removed: write optim: adafactor",
    "save_safetensors": "was removed: weights are always saved as safetensors",
    "fp16_backend": "was removed: fp16: true is enough",
    "half_precision_backend": "was removed: fp16: true or bf16: true is enough",
    "fp16_opt_level": "was removed together with Apex",
    "include_inputs_for_metrics": "was removed: write include_for_metrics: [inputs]",
    "include_tokens_per_second": "was removed: tokens per second are always logged here",
    "split_batches": "was removed: write accelerator_config: {split_batches: ...}",
    "dispatch_batches": "was removed: write accelerator_config: {dispatch_batches: ...}",
    "xpu_backend": "is now called ddp_backend",
    "push_to_hub_model_id": "is now called hub_model_id",
    "push_to_hub_token": "is now called hub_token",
    "push_to_hub_organization": "was removed: write the organisation into hub_model_id",
    "fsdp_min_num_params": "was removed: set it in the Accelerate config or in fsdp_config",
    "fsdp_transformer_layer_cls_to_wrap": "was removed: set it in the Accelerate config or in fsdp_config",
    "torchdynamo": "is now called torch_compile_backend",
    "jit_mode_eval": "was removed",
    "use_ipex": "was removed",
    "tpu_num_cores": "was removed: the launcher sets the number of processes",
    "neftune_alpha": "is called neftune_noise_alpha",
    "activation_checkpointing": "is called gradient_checkpointing in the installed transformers",
    "gradient_checkpointing": "is called activation_checkpointing in the installed transformers",
    # TRL
    "max_seq_length": "is now called max_length",
    "torch_dtype": "is now called dtype",
    "max_prompt_length": "was removed, TRL no longer cuts prompts: shorten or filter the prompts of the data",
    "tokenizer": "is no key of TRL: the tokenizer is loaded from model_name_or_path",
    "tokenizer_name_or_path": "is no key of TRL: the tokenizer is loaded from model_name_or_path",
    "setup_chat_format": "was removed: the sft stage takes a tokenizer or a Jinja file in chat_template_path",
    "chat_template": "is no key of TRL: the sft stage takes a Jinja file in chat_template_path, others the tokenizer's own",
    "use_liger": "is now called use_liger_kernel",
    "use_liger_loss": "is now called use_liger_kernel",
    "use_flash_attention_2": "is now written attn_implementation: flash_attention_2",
    "use_reentrant": "belongs into gradient_checkpointing_kwargs: {use_reentrant: ...}",
    "dataset_batch_size": "was removed: it is no longer needed",
    "num_of_sequences": "was removed: packing follows max_length",
    "chars_per_token": "was removed: packing counts tokens",
    "vllm_device": "was removed: see vllm_mode",
    "vllm_dtype": "was removed: vLLM takes the dtype of the model",
    "vllm_max_model_len": "is now called vllm_max_model_length",
    "vllm_enable_prefix_caching": "was removed",
    "vllm_guided_decoding_regex": "is now called vllm_structured_outputs_regex",
    "wandb_log_unique_prompts": "is now called log_unique_prompts",
    "epsilon_low": "is called epsilon",
    "max_new_tokens": "is called max_completion_length",
    "response_length": "is called max_completion_length",
    # alignment-handbook and open-r1
    "dataset_mixture": "is written as in TRL: datasets: [{path, name, split, columns, fraction}], and test_split_size",
    "dataset_mixer": "is written as in TRL: datasets: [{path, split, fraction}]",
    "preprocessing_num_workers": "is called dataset_num_proc",
    "dataset_prompt_column": "is called prompt_column",
    "wandb_project": "is called project, or set WANDB_PROJECT under `env:`",
    "wandb_entity": "is no key: set WANDB_ENTITY under `env:`",
    # what other trainers call it
    "batch_size": "is called per_device_train_batch_size",
    "train_batch_size": "is called per_device_train_batch_size",
    "lr": "is called learning_rate",
    "num_epochs": "is called num_train_epochs",
    "num_train_steps": "is called max_steps",
    "resume": "is not needed: the same command goes on from the newest whole checkpoint",
    "overwrite": "is a flag of the command line, --overwrite, not a key of the recipe",
}
"""Keys of other versions and of neighbouring projects, and what to write instead. Read only for a key that is unknown
to the stage, so that an entry does no harm where the installed version has the key (again)."""

RENAMED_BELOW: dict[str, dict[str, str]] = {
    "datasets": {"id": "is called path", "config": "is called name", "weight": "is called fraction"},
}
