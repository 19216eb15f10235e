// How the clips play: pause, frame by frame, from the beginning, slower and faster.

const SPEEDS = [0.25, 0.5, 1];

const $ = (id) => document.getElementById(id);

export class Playing {
  #player;

  constructor(player) {
    this.#player = player;
    for (const button of document.querySelectorAll("[data-speed]")) {
      button.addEventListener("click", () => this.#speed(SPEEDS.indexOf(Number(button.dataset.speed))));
    }
    this.#pause(matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  /** Do what an action says. */
  do(action) {
    if (action === "pause") this.#pause(!this.#player.paused);
    else if (action === "restart") this.#player.restart();
    else if (action === "turn" && this.#player.turns) this.#player.view.eighth();
    else if (action === "straight") this.#player.view.reset();
    else if (action === "back" || action === "forward") this.#step(action === "back" ? -1 : 1);
    else if (action === "slower" || action === "faster") this.#speed(SPEEDS.indexOf(this.#player.speed) + (action === "slower" ? -1 : 1));
  }

  #pause(paused) {
    this.#player.paused = paused;
    $("pause").setAttribute("aria-pressed", String(paused));
    $("pause").querySelector("span").textContent = paused ? "Play" : "Pause";
    $("stage").classList.toggle("paused", paused);
  }

  #step(frames) {
    this.#pause(true);
    this.#player.step(frames);
  }

  #speed(place) {
    if (!(place in SPEEDS)) return;
    this.#player.speed = SPEEDS[place];
    for (const button of document.querySelectorAll("[data-speed]")) button.setAttribute("aria-pressed", String(Number(button.dataset.speed) === SPEEDS[place]));
  }
}
