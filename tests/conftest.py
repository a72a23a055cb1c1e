"""A tiny random Gemma 3 with its own tokenizer, and a tiny SAE: exact checks in seconds, no network."""

import pytest
import torch
from hypothesis import settings
from sae_lens import SAE
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from fgaa_utils.model.lm import LanguageModel, wrap

# Examples are the same every time, however slow the machine.
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

WORDS = "the a cat dog sat ran on mat in sun and we love hate rain blue red green one two".split()
VOCABULARY = 1100  # two blocks of exact_top_k and a remainder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    names = ["<pad>", "<bos>", "<unk>", *WORDS] + [f"w{i}" for i in range(VOCABULARY - 3 - len(WORDS))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="session")
def tiny() -> LanguageModel:
    """Four blocks, d_model 32, float32."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=16,
        max_position_embeddings=64,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=None,
    )
    return wrap(Gemma3ForCausalLM(config), tiny_tokenizer(), "tiny")


@pytest.fixture(scope="session")
def tiny_sae(tiny) -> SAE:
    """64 latents on d_model 32, unit decoder rows, about a third of the latents active."""
    torch.manual_seed(1)
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=tiny.d_model, d_sae=64, dtype="float32", device="cpu"))
    sae.W_dec.data = torch.nn.functional.normalize(torch.randn(64, tiny.d_model), dim=1)
    sae.W_enc.data = sae.W_dec.data.T.clone()
    sae.threshold.data.fill_(0.3)
    return sae.eval()
