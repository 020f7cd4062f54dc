"""One row of every format of data sets that is recognised, with what it is recognised as, and files of such rows."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WEATHER = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Rain today?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And tomorrow?"},
    {"role": "assistant", "content": "Sun."},
]
SHARED = [{"from": "human", "value": "Capital of Peru?"}, {"from": "gpt", "value": "Lima."}]
FORMATS = {
    "messages": (
        {"messages": WEATHER, "tools": None},
        "conversations (chat messages): the last turn of the assistant in 'messages' is the answer, the turns before",
        ("And tomorrow?", "Sun.", None),
    ),
    "sharegpt": (
        {"id": "p1", "conversations": SHARED},
        "conversations (ShareGPT): the last turn of the assistant in 'conversations' is the answer",
        ("Capital of Peru?", "Lima.", None),
    ),
    "prompt-text": (
        {"prompt": "The sky is", "completion": " blue."},
        "prompts and completions (TRL): 'prompt' is the question, 'completion' the answer",
        ("The sky is", " blue.", None),
    ),
    "prompt-messages": (
        {"prompt": WEATHER[:4], "completion": WEATHER[4:]},
        "prompts and completions (TRL): 'prompt' is the question, 'completion' the answer",
        ("And tomorrow?", "Sun.", None),
    ),
    "alpaca": (
        {"instruction": "Sort these.", "input": "3 1 2", "output": "1 2 3"},
        "instructions (Alpaca): 'instruction' with 'input' below it is the question, 'output' the answer",
        ("Sort these.\n\n3 1 2", "1 2 3", None),
    ),
    "dolly": (
        {"instruction": "Who?", "context": "", "response": "Ada."},
        "instructions (Dolly): 'instruction' with 'context' below it is the question, 'response' the answer",
        ("Who?", "Ada.", None),
    ),
    "gsm8k": (
        {"question": "2 pens at 600?", "answer": "2*600=1200\n#### 1,200"},
        "questions and answers (GSM8K): the reference is what follows #### in the answer",
        ("2 pens at 600?", "2*600=1200\n#### 1,200", "1200"),
    ),
    "mmlu": (
        {"question": "1+1?", "subject": "sums", "choices": ["2", "4", "6"], "answer": 0},
        "questions with choices: 'question' and the choices in 'choices', lettered from A, are the question",
        ("1+1?\n\nA. 2\nB. 4\nC. 6", "A", "A"),
    ),
    "boolq": (
        {"question": "is 2 even", "answer": True, "passage": "2 is even."},
        "questions to answer with yes or no: 'question' with 'passage' below it is the question",
        ("is 2 even\n\n2 is even.", "yes", "yes"),
    ),
    "sciq": (
        {"question": "What?", "distractor2": "b", "distractor1": "c", "correct_answer": "a", "support": "It is a."},
        "questions with a right answer and wrong ones: 'question' with 'support' below it is the question",
        ("What?\n\nIt is a.\n\nA. a\nB. b\nC. c", "A", "A"),
    ),
    "tulu-rlvr": (
        {"messages": [{"role": "user", "content": "1+1?"}], "ground_truth": "2", "dataset": "gsm8k"},
        "conversations with short answers: 'messages' is the question, and 'ground_truth' both answer and reference",
        ("1+1?", "2", "2"),
    ),
    "lima": (
        {"conversations": ["1+1?", "2"], "source": "web"},
        "conversations (chat messages): the last turn of the assistant in 'conversations' is the answer",
        ("1+1?", "2", None),
    ),
    "natural-instructions": (
        {"id": "t1", "definition": "Sort these.", "inputs": "3 1 2", "targets": "1 2 3"},
        "tasks with definitions (Natural Instructions): 'definition' with 'inputs' below it is the question",
        ("Sort these.\n\n3 1 2", "1 2 3", None),
    ),
    "pubmed-qa": (
        {
            "question": "Does it?",
            "context": {"contexts": ["It may.", "It did."], "labels": ["A", "B"]},
            "long_answer": "It does so.",
            "final_decision": "yes",
        },
        "questions with long answers (PubMedQA): 'question' with 'context.contexts' below it is the question, "
        "'long_answer' the answer; 'final_decision' is the reference",
        ("Does it?\n\nIt may.\n\nIt did.", "It does so.", "yes"),
    ),
    "hotpot-qa": (
        {
            "question": "Who?",
            "answer": "Ada",
            "context": {"title": ["a", "b"], "sentences": [["One.", " Two."], ["3."]]},
        },
        "questions and answers: 'context.sentences' is put below the question",
        ("Who?\n\nOne. Two.\n\n3.", "Ada", None),
    ),
    "ms-marco": (
        {"query": "Who?", "answers": "Ada", "passages": {"passage_text": ["Ada.", "Bob."], "is_selected": [1, 0]}},
        "questions with short answers: 'query' with 'passages.passage_text' below it is the question, and 'answers'",
        ("Who?\n\nAda.\n\nBob.", "Ada", "Ada"),
    ),
    "code-feedback": (
        {"query": "Double it.", "answer": "Write f first, and then call it with 2.", "resource": "web"},
        "questions with answers: 'query' is the question, 'answer' the answer",
        ("Double it.", "Write f first, and then call it with 2.", None),
    ),
    "instruction-and-answer": (
        {"instruction": "1+1?", "answer": "2"},
        "questions with short answers: 'instruction' is the question, and 'answer' both answer and reference",
        ("1+1?", "2", "2"),
    ),
    "counselling": (
        {"Context": "I am sad.", "Response": "Since when?"},
        "contexts with responses: 'context' is the question, 'response' the answer",
        ("I am sad.", "Since when?", None),
    ),
    "svamp": (
        {"ID": "s1", "Body": "Ada has 2 pens.", "Question": "How many?", "Answer": "2"},
        "questions and answers: 'body' is put below the question",
        ("How many?\n\nAda has 2 pens.", "2", None),
    ),
    "synthetic-1": (
        {"prompt": "1+1?", "verification_info": {"ground_truth": "2"}, "gold_standard_solution": "Two."},
        "questions with short answers: 'prompt' is the question, and 'verification_info.ground_truth' both answer and",
        ("1+1?", "2", "2"),
    ),
    "context-and-response": (
        {"question": "Who?", "context": "Ada came.", "response": "Ada did."},
        "questions with responses: 'question' with 'context' below it is the question, 'response' the answer",
        ("Who?\n\nAda came.", "Ada did.", None),
    ),
    "question-answer": ({"question": "1+1?", "answer": "2"}, "questions and answers", ("1+1?", "2", None)),
    "boxed": (
        {"problem": "Half of one?", "solution": r"First \boxed{1}, then \boxed{\frac{1}{2}}."},
        "problems with solutions: 'problem' is the question, 'solution' the answer; the reference is what stands in "
        "the last \\boxed{} in the answer",
        ("Half of one?", r"First \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    ),
    "metamath": (
        {"type": "MATH_Rephrased", "query": "2 and 2?", "response": "Add them.\nThe answer is: 4"},
        "queries with responses: 'query' is the question, 'response' the answer; the reference is what follows 'the "
        "answer is' at the end in the answer",
        ("2 and 2?", "Add them.\nThe answer is: 4", "4"),
    ),
    "metamath-gsm": (
        {"query": "2 and 3?", "response": "Add them.\n#### 5\nThe answer is: 5"},
        "queries with responses: 'query' is the question, 'response' the answer; the reference is what follows ####",
        ("2 and 3?", "Add them.\n#### 5\nThe answer is: 5", "5"),
    ),
    "messages-and-answer": (
        {"problem": "3+3?", "answer": "6", "messages": [*WEATHER[:4], {"role": "assistant", "content": "So, 6."}]},
        "conversations (chat messages): the last turn of the assistant in 'messages' is the answer, the turns before "
        "it are context; 'answer' is the reference",
        ("And tomorrow?", "So, 6.", "6"),
    ),
    "solution-and-answer": (
        {"question": "1+2?", "solution": "One more than two is 3.", "answer": "3"},
        "questions with solutions: 'question' is the question, 'solution' the answer; 'answer' is the reference",
        ("1+2?", "One more than two is 3.", "3"),
    ),
    "final-answer": (
        {"question": "1+3?", "answer": "One more than three is 4.", "final_answer": "4"},
        "questions and answers: 'final_answer' is the reference",
        ("1+3?", "One more than three is 4.", "4"),
    ),
    "short-answers": (
        {"problem": "1+4?", "answer": "5"},
        "problems with answers: 'problem' is the question, 'answer' the answer",
        ("1+4?", "5", None),
    ),
    "prompt-and-solution": (
        {"prompt": WEATHER[:2], "solution": "No.", "ground_truth": "no"},
        "prompts with solutions: 'prompt' is the question, 'solution' the answer; 'ground_truth' is the reference",
        ("Rain today?", "No.", "no"),
    ),
    "verl": (
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": "1+1?"}],
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {"split": "train", "index": 3, "answer": "One and one are 2."},
        },
        "prompts with checked answers (verl): 'prompt' is the question, 'extra_info.answer' the answer; "
        "'reward_model.ground_truth' is the reference",
        ("1+1?", "One and one are 2.", "2"),
    ),
    "verl-short": (
        {"prompt": [{"role": "user", "content": "1+1?"}], "reward_model": {"style": "rule", "ground_truth": "2"}},
        "questions with short answers: 'prompt' is the question, and 'reward_model.ground_truth' both answer and "
        "reference",
        ("1+1?", "2", "2"),
    ),
    "mbpp": (
        {"task_id": 1, "text": "Double a number.", "code": "def f(x): return 2*x", "test_list": ["assert f(1) == 2"]},
        "tasks with code and tests (MBPP): 'text' is the question, 'code' the answer",
        ("Double a number.", "def f(x): return 2*x", None),
    ),
    "boxed-and-answer": (
        {"problem": "1+1?", "solution": r"So \boxed{2}.", "answer": "2"},
        "problems with solutions: 'problem' is the question, 'solution' the answer; 'answer' is the reference",
        ("1+1?", r"So \boxed{2}.", "2"),
    ),
}


def printed(cell):
    """A cell as pandas writes it into a CSV file: it prints lists as NumPy's arrays, also those in structures."""
    if isinstance(cell, dict):
        return str({key: np.array(one, dtype=object) if isinstance(one, list) else one for key, one in cell.items()})
    return str(np.array(cell, dtype=object)) if isinstance(cell, list) else cell


def write(folder: Path, ending: str, rows):
    """The rows as a file of that kind; CSV holds lists as JSON."""
    path = folder / f"rows{ending}"
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif ending == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if ending == ".tsv" else ",")
            writer.writerow(rows[0])
            for row in rows:
                writer.writerow([json.dumps(one) if isinstance(one, list | dict) else one for one in row.values()])
    return path
