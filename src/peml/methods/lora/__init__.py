"""LoRA and its relatives, built on PEFT's layers."""
