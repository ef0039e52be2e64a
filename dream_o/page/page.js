// Runs once when the page is ready: handles the keyboard, and files dropped outside the fields.
() => {
    document.documentElement.lang = 'en';
    document.addEventListener('keydown', event => {
        if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
        const tab = [...document.querySelectorAll('#generate, #render')].find(b => b.offsetParent);
        if (tab) { event.preventDefault(); tab.click(); }
    }, true);
    // If no field accepts a dropped file or link, the browser would open it and leave the page. A field
    // that accepts it has called preventDefault before the event arrives here.
    const carries = (event, kind) => event.dataTransfer && event.dataTransfer.types.includes(kind);
    const leaves = event => !event.defaultPrevented && (carries(event, 'Files')
        || carries(event, 'text/uri-list') && !event.target.closest('input, textarea'));
    document.addEventListener('dragover', event => { if (leaves(event)) event.preventDefault(); });
    document.addEventListener('drop', event => {
        if (!leaves(event)) return;
        event.preventDefault();
        if (event.dataTransfer.files.length) restore(event.dataTransfer.files[0], 100);
    });
    // The field has no input element while it still holds the file that was dropped before.
    const restore = (file, tries) => {
        const input = document.querySelector('#restore input[type=file]');
        if (!input) {
            if (tries) setTimeout(() => restore(file, tries - 1), 100);
            return;
        }
        const one = new DataTransfer();
        one.items.add(file);
        input.files = one.files;
        input.dispatchEvent(new Event('change', {bubbles: true}));
    };
}
