// Runs once when the page is ready: the keyboard, and images that are dropped beside the form.
() => {
    document.documentElement.lang = 'en';
    document.addEventListener('keydown', event => {
        if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
        const tab = [...document.querySelectorAll('#generate, #render')].find(b => b.offsetParent);
        if (tab) { event.preventDefault(); tab.click(); }
    }, true);
    // Without this, a browser would leave the page and open the image.
    const outside = event => !event.target.closest('.slot, #restore') && event.dataTransfer
        && [...event.dataTransfer.types].includes('Files');
    document.addEventListener('dragover', event => { if (outside(event)) event.preventDefault(); });
    document.addEventListener('drop', event => {
        if (!outside(event)) return;
        event.preventDefault();
        const input = document.querySelector('#restore input[type=file]');
        if (!input || !event.dataTransfer.files.length) return;
        const one = new DataTransfer();
        one.items.add(event.dataTransfer.files[0]);
        input.files = one.files;
        input.dispatchEvent(new Event('change', {bubbles: true}));
    });
}
