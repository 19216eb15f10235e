// What admins do about annotators: invite, revoke, and write what they read.

import { button, doubtful, element, tell } from "./elements.js";
import { sent } from "./server.js";

const ROLES = [["label", "label: answers pairs"], ["view", "view: sees the run"], ["admin", "admin: does everything"]];

export class Office {
  #written = null; // the text that annotators read now
  #allowed = false;

  /** onchange(): whenever there is another account or text. */
  constructor(panel, onchange) {
    this.onchange = onchange;
    this.section = element("div", "office", panel);
    this.section.hidden = true;
    this.#invitations();
    this.#instructions();
    this.reading = element("article", "card sheet", panel);
    element("h2", "", this.reading, "What annotators read");
    this.readable = element("p", "instruction", this.reading);
    this.reading.hidden = true;
  }

  allow(allowed) {
    this.#allowed = allowed;
    this.section.hidden = !allowed;
    this.reading.hidden = allowed || this.#written === null;
  }

  show(instruction, people) {
    const text = instruction?.text ?? "";
    if (text !== this.#written) {
      if (this.text.value === (this.#written ?? "")) this.text.value = text; // else somebody is writing
      this.#written = text;
    }
    tell(this.readable, text);
    tell(this.version, instruction === null ? "Annotators read only the task’s question now." : `Version ${instruction.id}, since ${new Date(1000 * instruction.since).toLocaleString()}.`);
    this.known = new Set(people.filter(({ account }) => account !== null).map(({ name }) => name));
    this.allow(this.#allowed);
  }

  /** The cell in which an account can be ended. */
  revoking(cell, name, account) {
    const wanted = this.#allowed && account !== null && account.revoked_at === null;
    if (!wanted) cell.replaceChildren();
    else if (cell.firstChild === null) {
      doubtful(cell, "revoke", "really?", async () => {
        if (await sent("/api/revoke", { name }, `${name}’s link opens nothing any more; the answers stay.`)) this.onchange();
      }, "plain danger");
    }
    return undefined;
  }

  #invitations() {
    const form = element("form", "card sheet", this.section);
    element("h2", "", form, "Invite");
    const name = field(form, "Name", "input");
    name.required = true;
    name.maxLength = 60;
    name.autocomplete = "off";
    const role = field(form, "Role", "select");
    for (const [value, words] of ROLES) element("option", "", role, words).value = value;
    const quota = field(form, "Answers wanted", "input");
    Object.assign(quota, { type: "number", min: 1, placeholder: "as many as they like" });
    button(form, "make a link", () => {}, "strong").type = "submit";
    const made = element("p", "made", form);
    made.setAttribute("role", "status");
    made.hidden = true;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const again = this.known?.has(name.value.trim());
      const body = { name: name.value.trim(), role: role.value, quota: quota.value === "" ? null : Number(quota.value) };
      const reply = await sent("/api/invite", body, again ? "A new link; the old one ends." : "Invited.");
      if (reply === undefined) return;
      made.hidden = false;
      made.replaceChildren();
      element("span", "", made, `For ${reply.name}, shown only this once: `);
      element("code", "", made, location.origin + reply.link).tabIndex = 0;
      form.reset();
      this.onchange();
    });
  }

  #instructions() {
    const form = element("form", "card sheet", this.section);
    element("h2", "", form, "What annotators read");
    this.text = field(form, "One or two sentences: what is better, and what decides when both are as good", "textarea");
    Object.assign(this.text, { rows: 5, maxLength: 8000, required: true });
    this.version = element("p", "hint", form);
    button(form, "put in front of annotators", () => {}, "strong").type = "submit";
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (await sent("/api/instruct", { text: this.text.value }, "Annotators read this from now on; every answer says which text it was given under.")) this.onchange();
    });
  }
}

function field(form, name, kind) {
  const label = element("label", "field", form);
  element("span", "", label, name);
  return element(kind, "", label);
}
