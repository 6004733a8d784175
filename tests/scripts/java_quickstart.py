"""The README's programs from the packages alone.

An empty Maven project with the kill and the second process, and an empty Spring Boot project. `java_quickstart.py REPOSITORY`: the Maven
repository with the packages. Exits 0 when the output is what the README says, but for the process numbers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from quickstart import shape

README = Path(__file__).resolve().parents[2] / "bindings-java" / "README.md"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId>
  <artifactId>empty</artifactId>
  <version>1</version>
  <properties>
    <maven.compiler.release>17</maven.compiler.release>
    <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
  </properties>
  <repositories>{repository}</repositories>
  <dependencies>{dependency}</dependencies>
  <build><pluginManagement><plugins>
    <plugin><artifactId>maven-compiler-plugin</artifactId><version>3.14.0</version>
      <configuration><parameters>true</parameters></configuration></plugin>
    <plugin><artifactId>maven-resources-plugin</artifactId><version>3.3.1</version></plugin>
    <plugin><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version></plugin>
  </plugins></pluginManagement></build>
</project>
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


def place() -> str:
    """The root README's element for what the clone at $EVERSTEP has built."""
    return re.findall(r"<repository>.*?</repository>", (README.parents[1] / "README.md").read_text())[0]


def project(directory: Path, repository: Path, dependency: str, name: str, program: str) -> list[str]:
    """Compiles `program` in an empty project; the command that runs it."""
    package = re.search(r"^package (\w+);", program, re.M)
    source = directory / "src" / "main" / "java" / (package[1] if package else "")
    source.mkdir(parents=True)
    (directory / "pom.xml").write_text(POM.format(repository=place(), dependency=dependency))
    (source / f"{name}.java").write_text(program)
    subprocess.run(
        ["mvn", "-q", "-B", "-U", "compile", "dependency:copy-dependencies"],
        cwd=directory,
        env=os.environ | {"EVERSTEP": str(repository.parents[2])},
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return ["java", "-cp", "target/classes:target/dependency/*", f"{package[1]}.{name}" if package else name]


def run(directory: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)


def main() -> int:
    repository = Path(sys.argv[1]).resolve()
    (plain, spring), programs, shown = blocks("xml"), blocks("java"), blocks("console")[0]
    wanted = shape(shown.rpartition("$ ")[2].partition("\n")[2])
    shop = next(program for program in programs if "class Shop" in program)
    with tempfile.TemporaryDirectory(prefix="everstep-java-quickstart-") as name:
        directory = Path(name, "ship")
        command = project(directory, repository, plain, "Ship", programs[0])
        first = run(directory, [*command, "order-7", "paper"])
        if first.returncode != -9:
            print(f"the first process was not killed: {first.returncode} {first.stdout} {first.stderr}")
            return 1
        second = run(directory, [*command, "order-7"])
        print(second.stdout, second.stderr)
        if second.returncode != 0 or shape(second.stdout) != wanted:
            print(f"wanted {wanted}, got {shape(second.stdout)} (exit code {second.returncode})")
            return 1
        directory = Path(name, "shop")
        third = run(directory, project(directory, repository, spring, "Shop", shop))
        if third.returncode != 0 or "Hello, Ada" not in third.stdout:
            print(f"the Spring Boot application said {third.stdout} {third.stderr} (exit code {third.returncode})")
            return 1
        print("Hello, Ada")
    return 0


if __name__ == "__main__":
    sys.exit(main())
