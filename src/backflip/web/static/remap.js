// The dialog in which the person chooses their keys.

import { ACTIONS, SLOTS, keyName, keyOf } from "./keys.js";

const $ = (id) => document.getElementById(id);

export class Remap {
  #waiting = null; // {action, slot, button}: who gets the next key

  constructor(keys) {
    this.keys = keys;
    this.dialog = $("keys");
    this.dialog.addEventListener("keydown", (event) => this.#onkey(event));
    this.dialog.addEventListener("close", () => this.#listen(null));
    this.dialog.addEventListener("cancel", (event) => {
      if (this.#waiting) event.preventDefault(); // Escape ends the waiting first
    });
    $("keys-reset").addEventListener("click", () => {
      keys.reset();
      this.#draw();
      this.#say("All keys are as they were at first.");
    });
    $("keys-on").addEventListener("change", (event) => keys.turn(event.target.checked));
  }

  open() {
    $("keys-on").checked = this.keys.on;
    this.#say("");
    this.#draw();
    this.dialog.showModal();
  }

  #draw() {
    const rows = Object.entries(ACTIONS).filter(([action]) => !this.keys.resting(action)).map(([action, [words]]) => {
      const row = document.createElement("tr");
      const name = row.appendChild(document.createElement("th"));
      name.scope = "row";
      name.textContent = words;
      for (const slot of SLOTS) {
        const button = document.createElement("button");
        const key = this.keys.of(action)[slot];
        button.type = "button";
        button.textContent = key === null ? "none" : keyName(key);
        button.setAttribute("aria-label", `${words}, ${slot ? "second" : "first"} key: ${key === null ? "none" : keyName(key)}. Change it`);
        button.dataset.slot = `${action}-${slot}`;
        button.classList.toggle("none", key === null);
        button.addEventListener("click", () => this.#listen({ action, slot, button }));
        row.appendChild(document.createElement("td")).append(button);
      }
      return row;
    });
    $("keys-table").replaceChildren(...rows);
  }

  #listen(waiting) {
    this.#waiting?.button.classList.remove("waiting");
    this.#waiting = waiting;
    waiting?.button.classList.add("waiting");
    if (waiting) this.#say(`Press the key for “${ACTIONS[waiting.action][0]}”. Escape leaves it as it is, Delete takes it away.`);
  }

  #onkey(event) {
    if (!this.#waiting || event.ctrlKey || event.altKey || event.metaKey || event.key === "Shift") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.repeat) return;
    const { action, slot } = this.#waiting;
    const key = keyOf(event);
    if (key === "Escape") {
      this.#listen(null);
      this.#say("It stays as it is.");
      return;
    }
    const refused = this.keys.set(action, slot, key === "Delete" ? null : key);
    if (refused) {
      this.#say(refused);
      return; // it waits for another one
    }
    this.#listen(null);
    this.#draw();
    this.dialog.querySelector(`[data-slot="${action}-${slot}"]`).focus();
    this.#say(key === "Delete" ? "Taken away." : `${keyName(key)} it is.`);
  }

  #say(text) {
    $("keys-said").textContent = text;
  }
}
