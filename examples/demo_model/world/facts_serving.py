"""Facts about serving language models in general: memory, scheduling and measures."""

from __future__ import annotations

from world.fact_type import Fact

SERVING: tuple[Fact, ...] = (
    Fact(
        ("PagedAttention", "paged attention", "PagedAttention"),
        ("Does Windlass use PagedAttention?", "Who needs paged attention?"),
        (
            "PagedAttention keeps the KV cache in small blocks, like the pages of a book. A "
            "request takes a new block only when it needs one, so little memory is wasted.",
            "PagedAttention stores the KV cache in blocks of the same size. A block table says "
            "where each block is, so the memory need not be in one piece.",
        ),
        3.0,
    ),
    Fact(
        ("the KV cache", "KV cache", "a KV cache", "the key value cache"),
        ("What is stored in the KV cache?", "Why is there a KV cache?"),
        (
            "The KV cache keeps the keys and values of all earlier tokens, so that the model "
            "does not compute them again.",
            "The KV cache is the memory of a request. It holds the keys and values of the tokens "
            "that the model has seen.",
        ),
        3.0,
    ),
    Fact(
        ("a block", "blocks", "a KV block", "a cache block"),
        ("What is a block of the KV cache?", "How large is a block?", "What is in a block?"),
        (
            "A block is a small piece of the KV cache. It holds the keys and values of a fixed "
            "number of tokens, often sixteen.",
            "A block is a part of the KV cache with room for a fixed number of tokens.",
        ),
        2.0,
    ),
    Fact(
        ("a block table", "the block table", "block tables"),
        ("What does a block table hold?", "What is in the block table?"),
        (
            "A block table is a list that says where the blocks of a request are in memory.",
            "A block table tells, for each part of a request, which block of the KV cache holds "
            "it.",
        ),
        2.0,
    ),
    Fact(
        ("continuous batching", "continuous batching", "dynamic batching"),
        ("Does Windlass use continuous batching?", "How are requests batched?"),
        (
            "With continuous batching, new requests join the batch at every step, and finished "
            "requests leave at once. Nobody has to wait for the slowest.",
            "Continuous batching means that the batch changes at each step. A request starts as "
            "soon as there is room and leaves as soon as it is done.",
        ),
        2.5,
    ),
    Fact(
        ("chunked prefill", "chunked prefill", "prefill chunking"),
        ("Why are long prompts cut into chunks?", "What happens to a long prompt?"),
        (
            "Chunked prefill cuts a long prompt into chunks. Each step takes one chunk, so the "
            "other requests do not have to wait.",
            "Chunked prefill reads a long prompt piece by piece, and the other requests go on "
            "in between.",
        ),
        2.5,
    ),
    Fact(
        ("prefix caching", "the prefix cache", "automatic prefix caching"),
        ("Can two requests share memory?", "What if two prompts begin the same way?"),
        (
            "Prefix caching keeps the blocks of earlier prompts. When a new prompt begins in the "
            "same way, those blocks are used again.",
            "With prefix caching, prompts that begin alike share their blocks, so the shared "
            "part is computed only once.",
        ),
        2.5,
    ),
    Fact(
        ("preemption", "preemption of a request"),
        (
            "What happens when the memory is full?",
            "What if there are no free blocks?",
            "What happens when memory runs out?",
            "Can a request be stopped and started again?",
        ),
        (
            "Preemption happens when the blocks run out. One request gives its blocks back, "
            "waits, and goes on later.",
            "When there are no free blocks, the engine takes the blocks of one request away. "
            "That is preemption. The request goes on later.",
        ),
        2.5,
    ),
    Fact(
        ("the scheduler", "a scheduler", "scheduling"),
        ("What does the scheduler do?", "Who decides which request runs?"),
        (
            "The scheduler decides at every step which requests run and how many tokens each of "
            "them gets.",
            "The scheduler chooses the requests for the next step, so that the memory is enough "
            "and nobody waits too long.",
        ),
        1.5,
    ),
    Fact(
        ("prefill", "the prefill phase"),
        ("What happens in prefill?", "How is a prompt read?"),
        (
            "Prefill is the first part of a request. The model reads the whole prompt and fills "
            "the KV cache.",
            "In prefill the model reads the prompt, many tokens at once, and fills the KV cache.",
        ),
        1.5,
    ),
    Fact(
        ("decode", "decoding", "the decode phase"),
        ("What happens in decode?", "How is the answer written?"),
        (
            "Decode is the second part of a request. The model writes the answer, one token at "
            "each step.",
            "In decode the model writes one token after another, until the answer is done.",
        ),
        1.5,
    ),
    Fact(
        ("a token", "tokens", "tokenization"),
        ("What is a token in a language model?", "How is text cut into tokens?"),
        (
            "A token is a small piece of text, such as a word or a part of a word. A model reads "
            "and writes tokens.",
            "A token is a word or a piece of a word. A tokenizer cuts the text into tokens.",
        ),
        1.5,
    ),
    Fact(
        ("a tokenizer", "the tokenizer"),
        ("What does a tokenizer do?",),
        (
            "A tokenizer cuts text into tokens and puts tokens together into text again.",
            "A tokenizer turns text into numbers, one for each token, and back again.",
        ),
    ),
    Fact(
        ("an SLO", "SLO", "a service level objective", "SLOs"),
        ("What does SLO stand for?", "How fast must an answer be?"),
        (
            "SLO means service level objective. It is a promise about speed, such as a bound for "
            "the time to the first token.",
            "An SLO, a service level objective, says how fast the answers must be. The scheduler "
            "tries to keep it.",
        ),
        2.0,
    ),
    Fact(
        ("TTFT", "time to first token", "the time to first token"),
        ("What does TTFT stand for?",),
        (
            "TTFT means time to first token. It is the time from the request to the first token "
            "of the answer.",
            "TTFT is the time to first token: how long you wait until the answer begins.",
        ),
        2.0,
    ),
    Fact(
        ("TPOT", "time per output token", "the time per output token"),
        ("What does TPOT stand for?",),
        (
            "TPOT means time per output token. It is the mean time between two tokens of an "
            "answer.",
            "TPOT is the time per output token: how long each token takes once the answer has "
            "begun.",
        ),
        2.0,
    ),
    Fact(
        ("throughput", "the throughput"),
        ("What does throughput mean?", "How is throughput measured?"),
        (
            "Throughput is the number of tokens that the engine writes in one second, for all "
            "requests together.",
        ),
    ),
    Fact(
        ("latency", "the latency"),
        ("What does latency mean?", "How is latency measured?"),
        (
            "Latency is the time that one request takes. Low latency means that you do not wait "
            "long.",
        ),
    ),
    Fact(
        ("inference", "LLM inference"),
        ("What does inference mean?",),
        (
            "Inference means that a trained model is used to give answers. The model does not "
            "learn anything new.",
        ),
        1.5,
    ),
    Fact(
        ("an LLM", "a large language model", "a language model", "LLM"),
        ("What does LLM stand for?",),
        (
            "LLM means large language model. It is a model that reads text and writes the next "
            "token, again and again.",
            "An LLM is a large language model: it guesses the next token of a text, over and over.",
        ),
        1.5,
    ),
    Fact(
        ("an inference engine", "a serving engine", "an engine"),
        ("What does an inference engine do?", "What does a serving engine do?"),
        (
            "A serving engine takes requests from many users, runs the model for them and sends "
            "the tokens back.",
        ),
        1.5,
    ),
    Fact(
        ("a batch", "batching"),
        ("Why are requests put into a batch?", "Why is batching useful?"),
        (
            "A batch is a group of requests that the model works on in one step. A larger batch "
            "makes better use of the hardware.",
        ),
    ),
    Fact(
        ("streaming", "a streamed answer"),
        ("Can the server stream?", "How do I stream an answer?", "Does it support streaming?"),
        ("Streaming sends each token as soon as it is there. Set stream to true in your request.",),
    ),
    Fact(
        ("temperature", "the temperature"),
        ("What does the temperature do?", "What is the temperature of a model?"),
        (
            "The temperature says how freely the model chooses the next token. At zero it always "
            "takes the likeliest one.",
        ),
    ),
    Fact(
        ("speculative decoding",),
        ("What does a draft model do?", "What is a draft model?"),
        (
            "In speculative decoding a small model guesses a few tokens, and the large model "
            "checks them all in one step.",
        ),
    ),
    Fact(
        ("quantization", "a quantized model"),
        ("Why do people quantize a model?",),
        (
            "Quantization stores the numbers of a model with fewer bits, so that it needs less "
            "memory.",
        ),
    ),
    Fact(
        ("tensor parallelism", "a tensor parallel model"),
        ("How do I use many GPUs?", "How is a model split over several GPUs?"),
        (
            "Tensor parallelism splits each layer of a model over several devices, which work on "
            "the same token together.",
        ),
    ),
    Fact(
        ("attention", "the attention layer"),
        ("What does attention do?",),
        (
            "Attention is the part of a model that looks back at earlier tokens and decides which "
            "of them matter.",
        ),
    ),
)
