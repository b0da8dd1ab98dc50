"""The main job as a person sees it: ``python -m demo``, or ``make demo``.

A claim becomes a mirrored volume, a pod writes numbered records, disks are pulled, and every record whose fsync had
returned is read back. The end-to-end tests run the same code.

    writer    runs in the pod: writes, acknowledges, verifies (standard library only, one file)
    cluster   kubectl, and a watch that turns the objects' changes into a list of moments
    install   the chart, and the disks that are handed to Millpond
    workload  the claim, the pod, its acknowledgements
    legs      which bytes of which disk image a leg is, and whether two legs are equal
    story     what is said, when, and how long each part took
    job       the thread itself
    report    the figures and the verdict
"""
