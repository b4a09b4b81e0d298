"""Echo and Hops: a method and a task for unspoken, in a package of their own."""
