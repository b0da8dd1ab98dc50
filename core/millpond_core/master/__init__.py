"""What the master decides: ``(desired, observed, now) → a step | wait(reason) | error(category)``.

``World`` is all that is known of the four kinds. Each planner looks at one object in it and answers with the one next
step; the operator takes that step, puts what came back into the world and asks again. So there is no state but the
objects: a new leader goes on from them alone, wherever the last one stopped.
"""
