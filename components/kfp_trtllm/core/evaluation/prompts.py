"""The prompts of the benchmark: fixed, so that two engines' figures can be compared; open-ended, so that answers are long."""

PROMPTS = (
    "The history of the city began when",
    "Write a short story about a fox who wanted to learn how to swim. Once upon a time,",
    "Here is a list of ten things to pack for a week in the mountains:\n1.",
    "To bake a simple loaf of bread at home, you first need to gather the ingredients. Then",
    "The water cycle describes how water moves between the sea, the air and the land. It starts with",
    "Dear neighbor,\n\nI am writing to you about the tree between our gardens.",
    "Computers store numbers as sequences of zeros and ones. For example,",
    "In the last game of the season, the home team was two goals behind. With ten minutes to go,",
    "A good night's sleep is important for many reasons. First of all,",
    "The train left the station at six in the morning. Through the window she saw",
    "Explain how a bicycle stays upright when it moves, in words that a child understands.",
    "Long ago, before there were roads, people traveled along the river.",
    "The main difference between a lake and a sea is",
    "Today we will talk about how plants grow from a seed. A seed needs",
    "The committee met on Tuesday to discuss the budget for the coming year. The first point was",
    "When the storm was over, the fishermen went back to the harbor and found",
)
