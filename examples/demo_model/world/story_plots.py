"""What can happen in a story: each plot is a row of steps, each step a choice of sentences."""

from __future__ import annotations

Plot = tuple[tuple[str, ...], ...]

_LOST: Plot = (
    (
        "The {hero} had {a_thing} and took it everywhere.",
        "The dearest thing that {name} had was {a_thing}.",
    ),
    (
        "{weather} when the {noun} was suddenly gone.",
        "One day the {noun} was gone. {weather}.",
    ),
    (
        "{name} looked in the house and in the garden, but it was not there.",
        "The {hero} looked everywhere, but could not find it.",
    ),
    (
        'Then {a_friend} came along and asked, "Why are you so sad?"',
        'On the road {he} met {a_friend}. "What are you looking for?" asked the {friend}.',
    ),
    (
        '"I have lost my {noun}," said {name}. "Then let us look together," said the {friend}.',
        '"My {noun} is lost," said {name}. "Two can find more than one," said the {friend}.',
    ),
    (
        "They walked all day, and at last they found the {thing} {hiding}.",
        "They looked for a long time. In the evening they found the {thing} {hiding}.",
    ),
    (
        "{name} was so happy that {he} danced around the {friend}.",
        "{name} thanked the {friend} and shared {his} {food}.",
    ),
)

_FOUND: Plot = (
    (
        "{weather} when {name} found {a_thing} {hiding}.",
        "One day the {hero} went for a walk and found {a_thing} {hiding}.",
    ),
    (
        '"Whose {noun} is this?" {he} asked, but nobody was there.',
        'The {hero} looked at it for a long time. "Who has lost it?" {he} asked.',
    ),
    (
        "So the {hero} took the {noun} and went from door to door.",
        "{name} wanted to keep it, but then {he} thought of the one who had lost it.",
    ),
    (
        "The first neighbour shook his head. The second neighbour shook her head too.",
        "Nobody in the neighbourhood knew the {noun}.",
    ),
    (
        'At the last house there lived {a_friend}. "My {noun}!" cried the {friend}.',
        'In the evening {he} met {a_friend}. "That is my {noun}!" cried the {friend}.',
    ),
    (
        "The {friend} was so glad that {name} was invited to eat {food}.",
        "The {friend} smiled and gave {name} a bowl of {food}.",
    ),
)

_HAUL: Plot = (
    (
        "One day {a_thing} fell into a deep well.",
        "{weather} when {his} {thing} fell into the well.",
    ),
    (
        "The {hero} pulled at the rope, but the load was too heavy.",
        "{name} let down a rope and pulled, but {he} was not strong enough.",
    ),
    (
        '"You need a windlass," said {a_friend}. "It hauls the rope, whatever drives it."',
        'Then {a_friend} said, "Let us build a windlass. It hauls any rope."',
    ),
    (
        "Together they took a round log, two posts and a handle, and they built it.",
        "They worked until noon, and then the windlass stood above the well.",
    ),
    (
        "First the {hero} turned the handle, and then the {friend} turned it.",
        "They turned the handle, slowly, one turn after another.",
    ),
    (
        "At last the {noun} came up, wet but whole.",
        "The rope went round and round, and up came the {noun}.",
    ),
    (
        "From that day on the whole village used the windlass.",
        "{name} and the {friend} laughed and ate {food} beside the well.",
    ),
)

_BUILD: Plot = (
    (
        "{name} wanted to cross the water, but there was no bridge.",
        "The {hero} dreamed of a house of {his} own.",
    ),
    (
        "Every morning {he} carried one stone, and every evening {he} counted the stones.",
        "So {he} began to work, one stone after another.",
    ),
    (
        '"You will never finish," said {a_friend}. But {name} went on.',
        "{weather}, and the work was hard, but {name} did not stop.",
    ),
    (
        "After seven days there were seven stones, and after a month there were thirty.",
        "The days went by, and the row of stones grew longer and longer.",
    ),
    (
        "Then the {friend} came back to help and brought {a_thing}.",
        "Under the last stone {name} found {a_thing}, left there long ago.",
    ),
    (
        "When the work was done, they ate {food} and watched the sun go down.",
        "In the end everything was ready, and all the neighbours came to see it.",
    ),
)

_STORM: Plot = (
    (
        "One night a great storm came, and all the lights went out.",
        "{weather}, but in the night a storm came up.",
    ),
    (
        "{name} could not sleep and heard somebody call for help.",
        "Through the wind the {hero} heard a voice.",
    ),
    (
        "{He} took {his} {thing} and went out into the dark.",
        "{name} was afraid, but {he} took the {thing} and opened the door.",
    ),
    (
        "There, {hiding}, sat {a_friend}, cold and wet.",
        "After a while {he} found {a_friend} {hiding}.",
    ),
    (
        '"Come with me," said {name}. "My house is warm."',
        '"Do not be afraid," said {name}. "I will take you home."',
    ),
    (
        "They sat by the fire and ate {food} until the storm was over.",
        "All night they told each other stories, and in the morning the sun came out.",
    ),
)

_LEARN: Plot = (
    (
        "{name} could do many things, but {he} could not count.",
        "All the others could count, but the {hero} could not.",
    ),
    (
        '"Teach me," {he} said to {a_friend}, who was very wise.',
        "So {he} went to {a_friend} and asked for help.",
    ),
    (
        '"We will begin with apples," said the {friend}. "One, two, three."',
        '"Look at the stars," said the {friend}. "One, two, three, four, five."',
    ),
    (
        "The {hero} made many mistakes, but the {friend} only smiled.",
        "It was hard at first, and {name} wanted to give up.",
    ),
    (
        "Day after day {he} counted leaves, clouds and steps.",
        "{weather}, and {name} counted everything on the way.",
    ),
    (
        'When {name} could count to ten, the {friend} gave {him} {a_thing}. "Now count to twenty."',
        "In the end {he} could count to one hundred, and the {friend} gave {him} {a_thing}.",
    ),
)

_JOURNEY: Plot = (
    (
        "One morning the {hero} found an old letter. It told of {a_thing}, far away.",
        "{name} had heard of {a_thing} that lay at the end of the world.",
    ),
    (
        "{He} packed some {food} and set out.",
        "So {he} said goodbye and began to walk.",
    ),
    (
        "On the first day {he} crossed a river. On the second day {he} climbed a hill.",
        "{weather}, and the road was long.",
    ),
    (
        "On the third day {he} met {a_friend}, who was hungry, and gave away half of the {food}.",
        "Halfway there, {he} met {a_friend}, and they went on together.",
    ),
    (
        'The {friend} knew the way. "You must look {hiding}," said the {friend}.',
        "At night they slept {hiding}, and the stars were bright.",
    ),
    (
        "And there it was: the {thing}, just as the {friend} had said.",
        "At last {name} held the {thing} in the light of the morning.",
    ),
    (
        "But the best thing about the journey was {his} new friend, the {friend}.",
        "{name} took it home and showed it to everybody.",
    ),
)

PLOTS: tuple[Plot, ...] = (_LOST, _FOUND, _HAUL, _BUILD, _STORM, _LEARN, _JOURNEY)

ENDINGS = (
    "And so the {hero} learned that {lesson}. The end.",
    "That day the {hero} learned that {lesson}.",
    "From then on they were the best of friends. The end.",
    "And they lived happily to the end of their days.",
    "The {hero} slept well that night, and so should you. The end.",
)
