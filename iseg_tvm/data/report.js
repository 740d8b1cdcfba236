"use strict";
// Sorts the table by the column whose heading is pressed; missing figures stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const column = [...heading.parentElement.children].indexOf(heading);
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const body = document.querySelector("tbody");
    const key = (row) => row.children[column].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return direction * (column === 0 || isNaN(x) ? x.localeCompare(y) : x - y);
    });
    body.append(...rows);
  });
}
