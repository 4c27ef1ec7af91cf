from tests.earlier import main

main()
