"""Facts about the engine itself: what it is, how to start it and how to extend it."""

from __future__ import annotations

from world.fact_type import Fact

WINDLASS: tuple[Fact, ...] = (
    Fact(
        ("Windlass", "the Windlass engine", "Windlass"),
        (
            "What does Windlass do?",
            "What is Windlass about?",
            "Is Windlass an engine?",
            "What kind of software is Windlass?",
        ),
        (
            "Windlass is an LLM inference and serving engine that runs on any hardware. It "
            "answers many requests at the same time.",
            "Windlass is an engine for LLM inference and serving. It runs on any hardware, from "
            "a laptop to a cluster.",
        ),
        4.0,
    ),
    Fact(
        ("a windlass", "the word windlass", "a windlass on a ship"),
        (
            "What does the word windlass mean?",
            "What is a windlass used for?",
            "What does a windlass do?",
        ),
        (
            "A windlass is a machine that hauls a rope, whatever drives it: a hand, a horse or "
            "an engine.",
            "A windlass is a machine that winds up a rope to haul a heavy load. It does not "
            "matter what drives it.",
        ),
        2.5,
    ),
    Fact(
        (),
        (
            "Why is it called Windlass?",
            "Where does the name Windlass come from?",
            "Why the name Windlass?",
            "Why did you choose the name Windlass?",
            "What does the name Windlass mean?",
        ),
        (
            "A windlass hauls a rope, whatever drives it. In the same way, Windlass serves "
            "models, whatever hardware drives it.",
            "It is named after the machine that hauls a rope, whatever drives it. The engine "
            "does the same with tokens.",
        ),
        1.5,
    ),
    Fact(
        ("the supported hardware",),
        (
            "Which hardware does Windlass run on?",
            "Which hardware can I use?",
            "What hardware is supported?",
            "Does Windlass need a GPU?",
            "Do I need a GPU?",
            "Can it run on a CPU?",
            "Does Windlass run on my laptop?",
            "Which GPUs does Windlass support?",
            "Can Windlass run without a graphics card?",
            "Where does Windlass run?",
            "On which hardware does it run?",
        ),
        (
            "Windlass runs on any hardware that has a backend plugin. A plain CPU is enough to "
            "start.",
            "It runs on any hardware: CPUs, GPUs and other accelerators. Each kind of hardware "
            "has a backend plugin.",
        ),
        2.5,
    ),
    Fact(
        (),
        (
            "How do I start the server?",
            "How do I start Windlass?",
            "How can I run Windlass?",
            "How do I serve a model?",
            "How do I use Windlass?",
            "Which command starts the server?",
            "How do I run the server?",
            "How do I begin?",
            "How do I get started?",
            "What does windlass serve do?",
            "How do I launch the server?",
        ),
        (
            "Type windlass serve and the name of a model. Without a name it serves me, the demo "
            "model.",
            "Run windlass serve in a terminal. Add the name of a model, or leave it out to serve "
            "the demo model.",
        ),
        3.0,
    ),
    Fact(
        (),
        (
            "How do I install Windlass?",
            "How can I install it?",
            "How do I get Windlass?",
            "Is Windlass on the package index?",
            "How do I install the engine?",
        ),
        (
            "Install it with pip, the Python package installer. Then type windlass serve.",
            "Windlass is a Python package, so you install it with pip.",
        ),
    ),
    Fact(
        ("the OpenAI API", "the API", "the HTTP API"),
        (
            "Does Windlass speak the OpenAI API?",
            "Which API does the server have?",
            "How do I send a request?",
            "Can I use the OpenAI client?",
            "How do I talk to the server?",
            "Is it compatible with OpenAI?",
            "Which API does Windlass have?",
        ),
        (
            "The server speaks the OpenAI API. Send a chat request to /v1/chat/completions.",
            "Windlass speaks the OpenAI API, so any client for that API can talk to it.",
        ),
        2.0,
    ),
    Fact(
        ("a plugin", "plugins", "the plugin system", "plug-ins"),
        (
            "What is a plugin in Windlass?",
            "What can a plugin do?",
            "Can I extend Windlass?",
            "How do I extend Windlass?",
            "How do I add a feature?",
        ),
        (
            "A plugin is a small package that adds something to Windlass, such as a backend or "
            "a model, without a change to the engine.",
            "A plugin adds a part to Windlass from outside. The engine finds it by its Python "
            "entry point.",
        ),
        2.0,
    ),
    Fact(
        ("a backend", "backends", "a hardware backend"),
        (
            "What is a backend in Windlass?",
            "What does a backend do?",
        ),
        (
            "A backend is a plugin that tells Windlass how to run on one kind of hardware. It "
            "holds the memory and runs the model.",
            "A backend is the part that drives one kind of hardware. The rest of the engine does "
            "not need to know the hardware.",
        ),
        2.0,
    ),
    Fact(
        (),
        (
            "How do I write a backend?",
            "How can I write a backend?",
            "How do I add new hardware?",
            "How do I make a backend plugin?",
            "How do I support a new chip?",
            "How do I port Windlass to my hardware?",
            "How do I create a backend?",
            "How do I write a plugin?",
        ),
        (
            "Write a small Python package that implements the backend interface, and name it in "
            "an entry point. Then run the tests that every backend must pass.",
            "Make a Python package, implement the backend interface and register it as an entry "
            "point. The engine finds it by itself.",
        ),
        2.5,
    ),
    Fact(
        ("Ray", "a Ray cluster"),
        (
            "Does Windlass work with Ray?",
            "How does Windlass use Ray?",
            "Can I use Ray?",
            "What is Ray used for?",
            "How do I run on many machines?",
            "Can Windlass use many machines?",
        ),
        (
            "Ray is a system that runs Python on many machines. Windlass can use Ray to start "
            "its workers on a cluster.",
            "Ray places work on the machines of a cluster. With Ray, Windlass can serve a model "
            "on many machines.",
        ),
        1.5,
    ),
    Fact(
        ("the license of Windlass", "the licence"),
        (
            "Is Windlass free?",
            "Is Windlass open source?",
            "Which license does Windlass have?",
            "Can I use Windlass at work?",
            "Under which licence is it?",
        ),
        (
            "Windlass is open source under the Apache License, version 2.0.",
            "Yes, Windlass is free. Its licence is the Apache License, version 2.0.",
        ),
    ),
    Fact(
        ("the demo model",),
        (
            "What is the demo model?",
            "Which model is served by default?",
            "What happens without a model name?",
            "What is the default model?",
        ),
        (
            "The demo model is me: a very small model that comes with Windlass, so that you can "
            "try the engine at once.",
        ),
        1.5,
    ),
    Fact(
        (),
        (
            "Which models can Windlass serve?",
            "Can Windlass serve my model?",
            "What models does Windlass support?",
            "Which models are supported?",
            "Can I serve a Llama model?",
            "Can I use another model?",
        ),
        (
            "Windlass serves models in the Hugging Face format, such as the Llama family. Give "
            "the name of the model to windlass serve.",
            "It serves language models in the Hugging Face format. A plugin can add other kinds "
            "of models.",
        ),
        1.5,
    ),
    Fact(
        (),
        (
            "In which language is Windlass written?",
            "What is Windlass written in?",
            "Which programming language does Windlass use?",
            "Is Windlass written in Python?",
        ),
        ("Windlass is written in Python. A backend may use any language for its kernels.",),
    ),
    Fact(
        (),
        (
            "Why should I use Windlass?",
            "What is special about Windlass?",
            "What makes Windlass different?",
            "Why Windlass?",
            "Is Windlass good?",
        ),
        (
            "With Windlass you can change the hardware and keep everything else. Only the "
            "backend plugin is different.",
            "Windlass gives you one engine for any hardware. You choose a backend, and the rest "
            "stays the same.",
        ),
        1.5,
    ),
)
