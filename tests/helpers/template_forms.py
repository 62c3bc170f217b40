"""Public chat templates in small: the same turns, default system texts, control tokens and white space, without tools.

Each is written after the template of the models that it is named for. `before` and `after` are by hand what it puts
around a user's message, `stop` what it writes after an assistant's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from support import GEMMA_TEMPLATE, tiny_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class Form:
    """A template and what it should write; `tokens` are control tokens beside BOS and EOS, `marks` tokens that are not
    marked as special."""

    template: str
    before: str
    after: str
    stop: str
    tokens: str = ""
    marks: str = ""
    bos: str | None = "<s>"
    eos: str = "</s>"
    variables: Mapping[str, Any] = field(default_factory=dict)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tiny byte-level BPE with the form's control tokens and template."""
        backend = tiny_tokenizer().backend_tokenizer
        named = {"eos_token": self.eos} | ({} if self.bos is None else {"bos_token": self.bos})
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **named)
        tokenizer.add_special_tokens({"additional_special_tokens": self.tokens.split()})
        tokenizer.add_tokens([AddedToken(mark, special=False) for mark in self.marks.split()])
        tokenizer.chat_template = self.template
        return tokenizer


def turns(user: str, assistant: str, generation: str, *, first: str = "") -> str:
    """A loop over messages; each argument is a Jinja expression, in which `c` is the content."""
    return (
        f"{{{{- {first or repr('')} -}}}}{{%- for m in messages -%}}{{%- set c = m['content'] -%}}"
        f"{{%- if m['role'] == 'user' -%}}{{{{- {user} -}}}}{{%- elif m['role'] == 'assistant' -%}}{{{{- {assistant} -}}}}"
        f"{{%- endif -%}}{{%- endfor -%}}{{%- if add_generation_prompt -%}}{{{{- {generation} -}}}}{{%- endif -%}}"
    )


def chatml(*, first: str = "", after: str = "", **more: Any) -> Form:
    """`<|im_start|>role`; `first` stands before the first turn, `after` at the end of the generation prompt."""
    return Form(
        **{
            "template": turns(
                "'<|im_start|>user\\n' + c + '<|im_end|>\\n'",
                "'<|im_start|>assistant\\n' + c + '<|im_end|>\\n'",
                f"'<|im_start|>assistant\\n' + {after!r}",
                first=repr(first),
            ),
            "before": f"{first}<|im_start|>user\n",
            "after": f"<|im_end|>\n<|im_start|>assistant\n{after}",
            "stop": "<|im_end|>",
            "tokens": "<|im_start|> <|im_end|>",
            "bos": None,
            "eos": "<|endoftext|>",
            **more,
        }
    )


GEMMA: dict[str, Any] = {
    "before": "<bos><start_of_turn>user\n",
    "after": "<end_of_turn>\n<start_of_turn>model\n",
    "stop": "<end_of_turn>",
    "tokens": "<start_of_turn> <end_of_turn>",
    "bos": "<bos>",
    "eos": "<eos>",
}
SENTENCE: dict[str, Any] = {
    "stop": "<|end_of_sentence|>",
    "bos": "<|begin_of_sentence|>",
    "eos": "<|end_of_sentence|>",
}
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
LLAMA3: dict[str, Any] = {
    "after": "<|eot_id|>" + HEADER.format("assistant"),
    "stop": "<|eot_id|>",
    "tokens": "<|start_header_id|> <|end_header_id|> <|eot_id|>",
    "bos": "<|begin_of_text|>",
    "eos": "<|end_of_text|>",
}
LLAMA3_TURNS = turns(
    "'<|start_header_id|>user<|end_header_id|>\\n\\n' + c | trim + '<|eot_id|>'",
    "'<|start_header_id|>assistant<|end_header_id|>\\n\\n' + c | trim + '<|eot_id|>'",
    "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'",
    first="bos_token",
)
QWEN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
COMMAND = "<|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|>"
THINK = "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"

FORMS: dict[str, Form] = {
    "gemma": Form(
        template=GEMMA_TEMPLATE,
        **GEMMA,
    ),
    "gemma-3": Form(
        template="{{ bos_token }}{%- set prefix = '' -%}{%- for m in messages -%}"
        "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}{%- endif -%}"
        "{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
        "{{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}"
        "{%- if m['content'] is string -%}{{ m['content'] | trim }}{%- else -%}{%- for i in m['content'] -%}"
        "{{ i['text'] | trim }}{%- endfor -%}{%- endif -%}{{ '<end_of_turn>\\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}",
        **GEMMA,
    ),
    "llama-2": Form(
        template=turns("bos_token + '[INST] ' + c.strip() + ' [/INST]'", "' ' + c.strip() + ' ' + eos_token", "''"),
        before="<s>[INST] ",
        after=" [/INST]",
        stop="</s>",
    ),
    "llama-3": Form(template=LLAMA3_TURNS, before="<|begin_of_text|>" + HEADER.format("user"), **LLAMA3),
    "llama-3.2": Form(
        template="{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
        "{%- endif %}"
        + LLAMA3_TURNS.replace(
            "{{- bos_token -}}",
            "{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n"
            "Today Date: ' + date_string + '\\n\\n<|eot_id|>' -}}",
        ),
        before="<|begin_of_text|>" + HEADER.format("system") + "Cutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|>" + HEADER.format("user"),
        **LLAMA3,
    ),
    "mistral-v1": Form(
        template=turns("'[INST] ' + c + ' [/INST]'", "c + eos_token + ' '", "''", first="bos_token"),
        before="<s>[INST] ",
        after=" [/INST]",
        stop="</s>",
    ),
    "mistral-v3": Form(
        template=turns("'[INST] ' + c + '[/INST]'", "' ' + c + eos_token", "''", first="bos_token"),
        before="<s>[INST] ",
        after="[/INST]",
        stop="</s>",
        tokens="[INST] [/INST]",
    ),
    "mistral-tekken": Form(
        template=turns("'[INST]' + c + '[/INST]'", "c + eos_token", "''", first="bos_token"),
        before="<s>[INST]",
        after="[/INST]",
        stop="</s>",
        tokens="[INST] [/INST]",
    ),
    "chatml": chatml(),
    "yi": chatml(bos="<|startoftext|>"),
    "qwen-2": chatml(first=QWEN),
    "qwen-3": chatml(
        template=chatml().template.removesuffix("{%- endif -%}") + THINK + "{%- endif -%}",
        after="<think>\n\n</think>\n\n",
        marks="<think> </think>",
        variables={"enable_thinking": False},
    ),
    "smollm-2": chatml(
        first="<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
        bos="<|im_start|>",
        eos="<|im_end|>",
    ),
    "internlm-2": chatml(first="<s>", bos="<s>", eos="</s>"),
    "stablelm-2": chatml(bos="<|endoftext|>"),
    "phi-3": Form(
        template=turns(
            "'<|user|>\\n' + c + '<|end|>\\n'", "'<|assistant|>\\n' + c + '<|end|>\\n'", "'<|assistant|>\\n'"
        ),
        before="<|user|>\n",
        after="<|end|>\n<|assistant|>\n",
        stop="<|end|>",
        tokens="<|user|> <|assistant|> <|end|>",
        eos="<|endoftext|>",
    ),
    "phi-4": Form(
        template=turns(
            "'<|im_start|>user<|im_sep|>' + c + '<|im_end|>'",
            "'<|im_start|>assistant<|im_sep|>' + c + '<|im_end|>'",
            "'<|im_start|>assistant<|im_sep|>'",
        ),
        before="<|im_start|>user<|im_sep|>",
        after="<|im_end|><|im_start|>assistant<|im_sep|>",
        stop="<|im_end|>",
        tokens="<|im_start|> <|im_sep|> <|im_end|>",
        bos="<|endoftext|>",
        eos="<|im_end|>",
    ),
    "zephyr": Form(  # its turns are plain text
        template=turns(
            "'<|user|>\\n' + c + eos_token + '\\n'", "'<|assistant|>\\n' + c + eos_token + '\\n'", "'<|assistant|>\\n'"
        ),
        before="<|user|>\n",
        after="</s>\n<|assistant|>\n",
        stop="</s>",
    ),
    "tinyllama": Form(
        template="{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\\n' + m['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
        before="<|user|>\n",
        after="</s>\n<|assistant|>\n",
        stop="</s>",
    ),
    "vicuna": Form(
        template=turns(
            "'USER: ' + c + ' '", "'ASSISTANT: ' + c + '</s>'", "'ASSISTANT:'", first=f'bos_token + "{VICUNA}"'
        ),
        before=f"<s>{VICUNA}USER: ",
        after=" ASSISTANT:",
        stop="</s>",
    ),
    "command-r": Form(
        template=turns(
            "'<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + c.strip() + '<|END_OF_TURN_TOKEN|>'",
            "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + c.strip() + '<|END_OF_TURN_TOKEN|>'",
            "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'",
            first="bos_token",
        ),
        before="<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
        after="<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        stop="<|END_OF_TURN_TOKEN|>",
        tokens=COMMAND,
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    "deepseek-v2": Form(
        template=turns("'User: ' + c + '\\n\\n'", "'Assistant: ' + c + eos_token", "'Assistant:'", first="bos_token"),
        before="<|begin_of_sentence|>User: ",
        after="\n\nAssistant:",
        **SENTENCE,
    ),
    "deepseek-v3": Form(
        template=turns("'<｜User｜>' + c", "'<｜Assistant｜>' + c + eos_token", "'<｜Assistant｜>'", first="bos_token"),
        before="<|begin_of_sentence|><｜User｜>",
        after="<｜Assistant｜>",
        marks="<｜User｜> <｜Assistant｜>",
        **SENTENCE,
    ),
    "granite-3.0": Form(
        template=turns(
            "'<|start_of_role|>user<|end_of_role|>' + c + '<|end_of_text|>\\n'",
            "'<|start_of_role|>assistant<|end_of_role|>' + c + '<|end_of_text|>\\n'",
            "'<|start_of_role|>assistant<|end_of_role|>'",
        ),
        before="<|start_of_role|>user<|end_of_role|>",
        after="<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        stop="<|end_of_text|>",
        tokens="<|start_of_role|> <|end_of_role|>",
        bos="<|end_of_text|>",
        eos="<|end_of_text|>",
    ),
    "falcon-3": Form(
        template=turns("'<|user|>\\n' + c + '\\n'", "'<|assistant|>\\n' + c + eos_token", "'<|assistant|>\\n'"),
        before="<|user|>\n",
        after="\n<|assistant|>\n",
        stop="<|endoftext|>",
        tokens="<|user|> <|assistant|>",
        bos=None,
        eos="<|endoftext|>",
    ),
    "olmo": Form(  # BOS is the end of text
        template=turns(
            "'<|user|>\\n' + c + '\\n'", "'<|assistant|>\\n' + c + eos_token", "'<|assistant|>\\n'", first="eos_token"
        ),
        before="<|endoftext|><|user|>\n",
        after="\n<|assistant|>\n",
        stop="<|endoftext|>",
        bos="<|endoftext|>",
        eos="<|endoftext|>",
    ),
    "exaone": Form(
        template=turns(
            "'[|user|]' + c + '\\n'",
            "'[|assistant|]' + c + '[|endofturn|]\\n'",
            "'[|assistant|]'",
            first="'[|system|][|endofturn|]\\n'",
        ),
        before="[|system|][|endofturn|]\n[|user|]",
        after="\n[|assistant|]",
        stop="[|endofturn|]",
        tokens="[|system|] [|user|] [|assistant|] [|endofturn|]",
        bos="[BOS]",
        eos="[|endofturn|]",
    ),
    "openchat": Form(
        template=turns(
            "'GPT4 Correct User: ' + c + '<|end_of_turn|>'",
            "'GPT4 Correct Assistant: ' + c + '<|end_of_turn|>'",
            "'GPT4 Correct Assistant:'",
            first="bos_token",
        ),
        before="<s>GPT4 Correct User: ",
        after="<|end_of_turn|>GPT4 Correct Assistant:",
        stop="<|end_of_turn|>",
        eos="<|end_of_turn|>",
    ),
    "jamba": Form(
        template=turns(
            "'<|bom|><|user|> ' + c + '<|eom|>'",
            "'<|bom|><|assistant|> ' + c + '<|eom|>'",
            "'<|bom|><|assistant|> '",
            first="bos_token",
        ),
        before="<|startoftext|><|bom|><|user|> ",
        after="<|eom|><|bom|><|assistant|> ",
        stop="<|eom|>",
        tokens="<|bom|> <|eom|> <|user|> <|assistant|>",
        bos="<|startoftext|>",
        eos="<|endoftext|>",
    ),
    "kimi": Form(
        template=turns(
            "'<|im_user|>user<|im_middle|>' + c + '<|im_end|>'",
            "'<|im_assistant|>assistant<|im_middle|>' + c + '<|im_end|>'",
            "'<|im_assistant|>assistant<|im_middle|>'",
        ),
        before="<|im_user|>user<|im_middle|>",
        after="<|im_end|><|im_assistant|>assistant<|im_middle|>",
        stop="<|im_end|>",
        tokens="<|im_user|> <|im_assistant|> <|im_middle|> <|im_end|>",
        bos="[BOS]",
        eos="[EOS]",
    ),
    "ernie": Form(
        template=turns("'User: ' + c + '\\n'", "'Assistant: ' + c + eos_token", "'Assistant: '", first="bos_token"),
        before="<|begin_of_sentence|>User: ",
        after="\nAssistant: ",
        **SENTENCE,
    ),
}
