import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, GraniteConfig, LlamaConfig

from liquid_mm.errors import UserError
from liquid_mm.generate.head import Head
from tiny import FAMILIES, tiny_base

IDS = torch.tensor([[3, 9, 4, 17]])


def assert_equals_full_logits(llm) -> Head:
    head = Head(llm, probe=1)
    with torch.inference_mode():
        expected = llm(IDS).logits[:, -1]
        hidden = llm.base_model(IDS).last_hidden_state[:, -1]
        for span in (range(expected.shape[-1]), range(20), range(20, 36)):
            torch.testing.assert_close(head(hidden, span), expected[:, span.start : span.stop], rtol=1e-5, atol=1e-5)
    return head


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_alone_equal_the_full_logits(family):
    assert_equals_full_logits(tiny_base(family)[0])


def tiny_config(config_class, **more):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    return AutoModelForCausalLM.from_config(config_class(**sizes, **heads, pad_token_id=0, **more)).eval()


@pytest.mark.parametrize("llm", [(CohereConfig, {"logit_scale": 0.1}), (GraniteConfig, {"logits_scaling": 8.0})])
def test_families_that_scale_their_logits(llm):
    assert_equals_full_logits(tiny_config(llm[0], **llm[1]))


def test_a_bias_is_added():
    llm = tiny_config(LlamaConfig)
    llm.lm_head.bias = torch.nn.Parameter(torch.randn(64))
    assert_equals_full_logits(llm)


def test_a_head_without_plain_rows_is_run_whole():
    class Wrapped(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head
            self.weight = head.weight

        def forward(self, hidden):
            return self.head(hidden) + 1

    llm = tiny_config(LlamaConfig)
    llm.lm_head = Wrapped(llm.lm_head)
    assert_equals_full_logits(llm)


def test_an_unknown_family_is_refused():
    llm = tiny_config(LlamaConfig)

    def halve(module, args, output):
        output.logits = output.logits / 2
        return output

    llm.register_forward_hook(halve)
    with pytest.raises(UserError, match="'llama' changes its logits"):
        Head(llm, probe=1)
