const sounds = [...document.querySelectorAll("audio")];
for (const sound of sounds) {
  const seen = sound.parentNode.querySelector(".seen"), head = seen.querySelector("i");
  const follow = () => { head.style.left = 100 * sound.currentTime / (sound.duration || 1) + "%"; if (!sound.paused) requestAnimationFrame(follow); };
  sound.onplay = () => { for (const other of sounds) if (other !== sound) other.pause(); head.style.opacity = .9; follow(); };
  sound.onended = () => { head.style.opacity = 0; };
  seen.onclick = event => {
    if (!sound.paused) return sound.pause();
    const box = seen.getBoundingClientRect(), place = (event.clientX - box.left) / box.width;
    if (sound.duration) sound.currentTime = place > .97 ? 0 : place * sound.duration;
    sound.play();
  };
}
