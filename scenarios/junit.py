"""Results as JUnit XML, which every CI shows: one suite a run, one case an expectation, one for the laws."""

import xml.etree.ElementTree as ET

from scenarios.expect import shown
from scenarios.runs import Result


def junit(results: list[Result]) -> str:
    root = ET.Element("testsuites", name="offerflow scenarios")
    for result in results:
        summary = result.summary
        parts = [summary.world, summary.policy, f"seed {summary.seed}"]
        parts += [f"{name}={value}" for name, value in summary.parameters.items()]
        verdicts = () if result.case.is_baseline else result.verdicts  # Nothing is expected of what others are held to.
        failures = sum(not verdict.ok for verdict in verdicts) + bool(summary.broken_laws)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=" · ".join(parts),
            tests=str(len(verdicts) + 1),
            failures=str(failures),
            errors="0",
            time=f"{result.wall_s:.3f}",
        )
        properties = ET.SubElement(suite, "properties")
        ET.SubElement(properties, "property", name="digest", value=summary.digest)
        laws = ET.SubElement(suite, "testcase", classname=summary.world, name="laws", time=f"{result.wall_s:.3f}")
        if summary.broken_laws:
            broken = ET.SubElement(laws, "failure", message=summary.broken_laws[0])
            broken.text = _clean("\n".join((*summary.broken_laws, "", *summary.tail)))
        for verdict in verdicts:
            case = ET.SubElement(suite, "testcase", classname=summary.world, name=verdict.text, time="0")
            if not verdict.ok:
                message = verdict.why or f"it was {shown(verdict.value, verdict.kind)}"
                ET.SubElement(case, "failure", message=message)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot carry."""
    return "".join(char if char in "\n\t" or ord(char) >= 32 else "?" for char in text)
