"""Passages and questions on which tokens are compared: facts, names, numbers, of several fields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A passage and a question it answers."""

    title: str
    text: str
    question: str


_PASSAGES = {
    "Danube": "The Danube is the second-longest river in Europe. It rises in the Black Forest of Germany, flows "
    "through or along ten countries and four capital cities, and ends in the Black Sea.",
    "Gold": "Gold is a chemical element with the symbol Au and the atomic number 79. It is dense, soft and bright "
    "yellow, and one of the least reactive of the metals.",
    "Johannes Gutenberg": "Johannes Gutenberg was a craftsman of Mainz who brought printing with movable type to "
    "Europe around 1450. His best-known book is the 42-line Bible.",
    "Photosynthesis": "Photosynthesis is how plants, algae and some bacteria turn light into chemical energy. They "
    "take up carbon dioxide and water, and release oxygen. The green pigment is chlorophyll.",
    "Chess": "Chess is a board game for two players on 64 squares. Each player begins with sixteen pieces; the game "
    "is won by checkmate, when the king can neither stay nor flee.",
    "Mount Kilimanjaro": "Mount Kilimanjaro is a dormant volcano in Tanzania. With its summit 5,895 metres above the "
    "sea it is the highest mountain of Africa. Hans Meyer and Ludwig Purtscheller reached the top in 1889.",
    "Honey bee": "A honey bee colony has one queen, some hundred drones and tens of thousands of workers. Workers "
    "tell one another where food is by a dance that Karl von Frisch deciphered.",
    "Magna Carta": "Magna Carta is a charter of rights agreed to by King John of England at Runnymede, near Windsor, "
    "on 15 June 1215. It was drafted to make peace between the king and a group of rebel barons.",
    "Insulin": "Insulin is a hormone made by the pancreas that lets cells take up sugar from the blood. It was "
    "isolated in Toronto in 1921 by Frederick Banting and Charles Best.",
    "Violin": "The violin is a wooden string instrument with four strings, usually tuned in fifths: G, D, A and E. "
    "Antonio Stradivari of Cremona made the most famous ones.",
}
_QUESTIONS = (
    ("Danube", "Where does the Danube end?"),
    ("Danube", "How many countries does the Danube flow through?"),
    ("Gold", "What is the symbol of gold?"),
    ("Gold", "What is the atomic number of gold?"),
    ("Johannes Gutenberg", "In which city did Gutenberg work?"),
    ("Johannes Gutenberg", "What is Gutenberg's best-known book?"),
    ("Photosynthesis", "Which gas do plants release?"),
    ("Photosynthesis", "What is the green pigment called?"),
    ("Chess", "How many squares does a chess board have?"),
    ("Chess", "How is a game of chess won?"),
    ("Mount Kilimanjaro", "In which country is Kilimanjaro?"),
    ("Mount Kilimanjaro", "Who first climbed Kilimanjaro?"),
    ("Honey bee", "How many queens does a colony have?"),
    ("Honey bee", "Who deciphered the dance of the bees?"),
    ("Magna Carta", "Which king agreed to Magna Carta?"),
    ("Magna Carta", "When was Magna Carta agreed to?"),
    ("Insulin", "Which organ makes insulin?"),
    ("Insulin", "In which city was insulin isolated?"),
    ("Violin", "How many strings does a violin have?"),
    ("Violin", "Who made the most famous violins?"),
)
SAMPLES = tuple(Sample(title, _PASSAGES[title], question) for title, question in _QUESTIONS)
