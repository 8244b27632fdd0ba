"""Sounds as tokens of text (`<|sound_17|>`) of an LLM's tokenizer, each under the id that was trained, and a chat
template.

So plain `transformers` reads a sound that is written into a prompt. Raises where its ids would differ from the
training's.
"""

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from conf.errors import UsageError
from models.language.vocabulary import Turn, Vocabulary

LTU_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "### Instruction:\n{{ message['content'] }}\n\n### Response:\n"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def add_sound_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    """Adds the new ids as tokens, each under its own id. Raises UsageError where the tokenizer would number them
    otherwise.
    """
    names = vocabulary.token_names()
    if taken := [name for name in names if name in tokenizer.get_vocab()]:
        raise UsageError(f"the LLM's tokenizer has a token {taken[0]} already, which means a sound here")
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in names])
    for name, wanted in zip(names, vocabulary.new_ids, strict=True):
        given = tokenizer.convert_tokens_to_ids(name)
        if given == wanted:
            continue
        raise UsageError(
            f"the LLM's tokenizer would call {name} {given}, and the model was trained with {wanted}: its ids have holes "
            "that it fills first. Such a model is used with `stage ask` and `stage generate`, and not exported"
        )


def check_reading(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    """Raises UsageError where a sound written as tokens of text is not read as the ids that the model was trained with."""
    codes = [0] * len(vocabulary.levels)
    names = vocabulary.token_names()
    sound = "".join(names[token - vocabulary.text_size] for token in vocabulary.sound_ids(codes))
    messages = [] if vocabulary.template.system is None else [{"role": "system", "content": vocabulary.template.system}]
    ltu = vocabulary.template.prompt_format == "ltu"
    messages = ([] if ltu else messages) + [{"role": "user", "content": f"{sound}\nWhat is it?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    actual = tokenizer(text, add_special_tokens=ltu).input_ids
    wanted = vocabulary.render([Turn("user", [codes, "\nWhat is it?"])], generate=True).input_ids
    if actual != wanted:
        raise UsageError(
            "the LLM's tokenizer reads text beside a sound otherwise than the model was trained with, so that an export would answer otherwise. "
            "Such a model is used with `stage ask` and `stage generate`"
        )
