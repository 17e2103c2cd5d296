"""Makes the committed goldens beside this file: tiny random models of the families that reflux runs but does not train, and what
transformers computes with them. Needs torch, transformers, tokenizers.   usage: python make.py"""
import json, os, shutil, sys
import torch
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "model"))
import make as llama

# Written after the templates of Gemma 3 and Qwen 3, without tools and images; not copies of their files.
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"""
QWEN3 = """{%- if tools %}
    {{- raise_exception('no tools here') }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
def gemma():
    return llama.byte_level(llama.pre_tokenizers.ByteLevel(add_prefix_space=False), ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"])

QWEN = (llama.smollm2, dict(bos_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=llama.CHATML))
QWEN_3 = (llama.smollm2, dict(bos_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=QWEN3))
GEM = (gemma, dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", chat_template=GEMMA))
GEMMA_TEXT = dict(hidden_size=24, intermediate_size=32, num_attention_heads=4, num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=8)
MODELS = {
    # name: (tokenizer, class of the config, class of the model, config)
    "qwen2": (QWEN, Qwen2Config, Qwen2ForCausalLM, dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              rope_theta=1e6, tie_word_embeddings=False, use_sliding_window=False, sliding_window=16)),
    "qwen3": (QWEN_3, Qwen3Config, Qwen3ForCausalLM, dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              head_dim=16, rope_theta=1e6, tie_word_embeddings=True)),
    # Two sliding layers, then a full one.
    "gemma3": (GEM, Gemma3TextConfig, Gemma3ForCausalLM, dict(GEMMA_TEXT, num_hidden_layers=3, final_logit_softcapping=20.0,
               layer_types=["sliding_attention", "sliding_attention", "full_attention"])),
}
GREEDY = 24

def make(name):
    (make_tokenizer, options), config_class, model_class, config = MODELS[name]
    out = os.path.join(HERE, name)
    shutil.rmtree(out, ignore_errors=True)
    torch.manual_seed(23)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(), **options)
    config = config_class(vocab_size=len(tokenizer), max_position_embeddings=256, initializer_range=0.3, bos_token_id=tokenizer.bos_token_id,
                          eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **config)
    config._attn_implementation = "eager"
    model = model_class(config).eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "norm" in n: p.copy_((0 if name == "gemma3" else 1) + 0.3 * torch.randn_like(p))
            # Gemma's scaled embedding would drown what the layers add, and every token would repeat itself.
            if name == "gemma3" and ".post_" in n: p.add_(3)
            elif "bias" in n: p.copy_(0.3 * torch.randn_like(p))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    prompts = []
    # Shorter than Gemma's window, as long, a little longer, and much longer.
    for text, cut in [("the cat sat on the mat", 5), ("the dog sat by the cat, and", 8), ("What is the capital of France?", 9), (llama.LONG, 100)]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:cut]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
            # The whole sequence again for each token: what the model says without any cache.
            tokens = list(ids)
            for _ in range(GREEDY):
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            last = model(torch.tensor([tokens[:-1]])).logits[0, -1]
        r = lambda t: [round(x, 6) for x in t.tolist()]
        if name == "gemma3" and len(ids) > 8:
            model.config.sliding_window = 9
            other = AutoModelForCausalLM.from_pretrained(out, config=model.config, attn_implementation="eager").eval()
            model.config.sliding_window = 8
            with torch.no_grad():
                # What follows can only be seen if a window wrong by one shows.
                assert (other(torch.tensor([ids])).logits[0, -1] - logits).abs().max() > 0.05
        prompts.append({"ids": ids, "logits": r(logits), "greedy": tokens[len(ids):], "last_logits": r(last)})
    chats = llama.chats(tokenizer)[:8]
    json.dump({"prompts": prompts, "chats": chats}, open(os.path.join(out, "golden.json"), "w"), ensure_ascii=False, separators=(",", ":"))

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in MODELS:
        make(name)
        print(name, {f: os.path.getsize(os.path.join(HERE, name, f)) for f in sorted(os.listdir(os.path.join(HERE, name)))})
